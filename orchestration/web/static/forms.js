// Forms that go on: steps, fields that depend on others, items to add, checks that appear as they are tried.
"use strict";
(() => {
  const csrf = () => document.querySelector("meta[name=csrf-token]")?.content ?? "";
  const busy = (button, yes) => {
    button.disabled = yes;
    button.setAttribute("aria-busy", String(yes));
  };

  // wrong fields, named beside the field and to screen readers
  const clearFields = (form) => {
    form.querySelectorAll(".field-error").forEach((error) => error.remove());
    form.querySelectorAll("[aria-invalid]").forEach((input) => {
      input.removeAttribute("aria-invalid");
      input.removeAttribute("aria-errormessage");
    });
  };
  const showFields = (form, wrong) => {
    let first;
    for (const { field, message } of wrong) {
      const input = [...form.elements].find((element) => element.name === field && element.type !== "hidden" && !element.matches(":disabled"));
      if (!input) continue;
      const error = document.createElement("small");
      error.className = "field-error";
      error.id = `error-${Math.random().toString(36).slice(2)}`;
      error.textContent = message;
      input.setAttribute("aria-invalid", "true");
      input.setAttribute("aria-errormessage", error.id);
      (input.closest("label") ?? input).after(error);
      input.closest("details")?.setAttribute("open", "");
      first ??= input;
    }
    first?.focus();
  };
  const valid = (form) => {
    const wrong = [...form.elements].filter((element) => element.name && element.willValidate && element.offsetParent && !element.validity.valid);
    clearFields(form);
    showFields(form, wrong.map((element) => ({ field: element.name, message: element.validationMessage })));
    return wrong.length === 0;
  };

  // checks, a line of JSON each
  const live = async (button) => {
    const form = button.closest("form");
    if (form && !valid(form)) return;
    const place = document.querySelector(button.dataset.liveInto);
    const list = document.createElement("ul");
    const end = document.createElement("div");
    end.innerHTML = '<p aria-busy="true">Testing ...</p>';
    place.replaceChildren(list, end);
    busy(button, true);
    const tested = form && new URLSearchParams(new FormData(form));
    let outcome = { ok: false, fields: [] };
    try {
      const answer = await fetch(button.dataset.live, {
        method: "POST",
        body: tested ?? "",
        headers: { "X-CSRF-Token": csrf(), "HX-Request": "true", "Content-Type": "application/x-www-form-urlencoded" },
      });
      if (answer.status === 401) return location.reload();
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = "", ended = false; !ended; ) {
        const { done, value } = await reader.read();
        const lines = (rest + (value ?? "")).split("\n");
        rest = lines.pop();
        for (const line of lines.filter(Boolean)) {
          const told = JSON.parse(line);
          if (told.done) [outcome, end.innerHTML] = [told, told.html];
          else list.insertAdjacentHTML("beforeend", told.html);
        }
        ended = done;
      }
      if (!outcome.done) throw new Error("the answer broke off");
    } catch (error) {
      end.innerHTML = '<p class="bad"></p>';
      end.firstChild.textContent = `The test could not be made: ${error.message}.`;
    } finally {
      busy(button, false);
    }
    if (!form) return refresh();
    showFields(form, outcome.fields ?? []);
    const now = new URLSearchParams(new FormData(form)).toString();
    tried(form, outcome.ok && now === tested.toString());
    form.querySelectorAll("[data-needs-person]").forEach((button) => { button.hidden = !outcome.login; });
  };
  // what the page says of the connector is what the test found
  const refresh = async () => {
    const answer = await fetch(location.pathname);
    if (!answer.ok) return;
    const now = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelectorAll("[data-refreshed]").forEach((part) => part.replaceWith(now.getElementById(part.id) ?? ""));
  };
  const tried = (form, good) => form.querySelectorAll("[data-needs-test]").forEach((button) => { button.disabled = !good; });

  // steps
  const stepTo = (form, number) => {
    form.querySelectorAll("[data-step]").forEach((section) => { section.hidden = section.dataset.step !== String(number); });
    document.querySelectorAll("[data-step-mark]").forEach((mark) => {
      const its = Number(mark.dataset.stepMark);
      mark.classList.toggle("passed", its < number);
      if (its === number) mark.setAttribute("aria-current", "step");
      else mark.removeAttribute("aria-current");
    });
    document.getElementById(`step-${number}`)?.focus();
  };

  // fields that depend on others
  const choose = (select) => {
    for (const part of document.querySelectorAll(`[data-chosen^="${select.name}="]`)) {
      part.hidden = part.dataset.chosen !== `${select.name}=${select.value}`;
    }
  };
  const vary = (select) => {
    for (const part of select.parentElement.querySelectorAll(":scope > [data-variant]")) {
      part.hidden = part.disabled = part.dataset.variant !== select.value;
    }
  };
  const addItem = (group) => {
    const items = group.querySelector(":scope > [data-items]");
    const number = Number(group.dataset.next ?? items.children.length);
    group.dataset.next = number + 1;
    const made = group.querySelector(":scope > template").content.cloneNode(true);
    for (const element of made.querySelectorAll("*")) {
      for (const attribute of [...element.attributes]) {
        if (attribute.value.includes("__new__")) element.setAttribute(attribute.name, attribute.value.replace("__new__", number));
      }
      if (element.localName === "template") {
        for (const path of [group.dataset.path + ".", group.dataset.path.replaceAll(".", "-") + "-"]) {
          element.innerHTML = element.innerHTML.replaceAll(`${path}__new__`, `${path}${number}`);
        }
      }
    }
    const legend = made.querySelector("legend");
    if (legend) legend.textContent = String(number + 1);
    items.append(made);
    tried(group.closest("form"), false);
    items.lastElementChild.querySelector("input, select, textarea")?.focus();
  };

  document.addEventListener("click", (event) => {
    const on = (selector) => event.target.closest(selector);
    let found;
    if ((found = on("[data-live]"))) live(found);
    else if ((found = on("[data-step-to]"))) stepTo(found.form, Number(found.dataset.stepTo));
    else if ((found = on("[data-add-item]"))) addItem(found.closest("[data-repeated]"));
    else if ((found = on("[data-remove-item]"))) {
      const form = found.closest("form");
      found.closest("[data-item]").remove();
      tried(form, false);
    }
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-chooses]")) choose(event.target);
    if (event.target.matches("[data-variants]")) vary(event.target);
  });
  document.addEventListener("input", (event) => {
    if (event.target.closest("[data-credentials]")) tried(event.target.form, false);
  });
  document.addEventListener("submit", (event) => {
    if (event.target.matches("[data-wizard], [data-checked]")) event.preventDefault();
    else if (event.target.matches("[data-waits]")) event.submitter?.setAttribute("aria-busy", "true");
  });
  document.addEventListener("keydown", (event) => {
    // Return in a step's field does what the step's button does
    if (event.key !== "Enter" || !event.target.matches("[data-wizard] input:not([type=checkbox]):not([type=search])")) return;
    event.preventDefault();
    const step = event.target.closest("[data-step]");
    const next = step.querySelector("[data-then-step]:not(:disabled)") ?? step.querySelector("[data-live]");
    next?.click();
  });
  document.addEventListener("htmx:confirm", (event) => {
    // a search inside the form is no sending of it
    const form = event.target.matches?.("button") && event.target.closest("[data-checked]");
    if (form && !valid(form)) event.preventDefault();
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    const button = event.detail.elt;
    const form = button.form;
    if (!form) return;
    if (event.detail.successful && button.dataset.thenStep) {
      clearFields(form);
      stepTo(form, Number(button.dataset.thenStep));
    } else if (event.detail.failed && event.detail.xhr?.status === 422) {
      const answer = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
      clearFields(form);
      const wrong = [...answer.querySelectorAll("[data-field]")].map((item) => ({ field: item.dataset.field, message: item.textContent }));
      const input = wrong.map(({ field }) => form.elements[field]).find(Boolean);
      const step = (input?.closest ? input : input?.[0])?.closest("[data-step]");
      if (step) stepTo(form, Number(step.dataset.step));
      showFields(form, wrong);
    }
  });
  document.querySelectorAll("[data-chooses]").forEach(choose);
  document.querySelector("[data-live-now]")?.click();
})();
