// What every page needs beside htmx: the theme, the proof that a request came from here, errors said aloud.
"use strict";
(() => {
  const meta = (name) => document.querySelector(`meta[name=${name}]`)?.content ?? "";

  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-theme-toggle]")) return;
    const shown = document.documentElement.dataset.theme
      || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    const next = shown === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    document.cookie = `headrace_theme=${next}; path=${meta("headrace-prefix") || "/"}; max-age=31536000; SameSite=Lax`;
  });

  document.addEventListener("htmx:configRequest", (event) => {
    event.detail.headers["X-CSRF-Token"] = meta("csrf-token");
  });

  // how much of an upload is sent
  document.addEventListener("htmx:xhr:progress", (event) => {
    const bar = document.querySelector("[data-upload-progress]");
    if (!bar || !event.detail.lengthComputable) return;
    bar.hidden = event.detail.loaded >= event.detail.total;
    bar.value = (100 * event.detail.loaded) / event.detail.total;
  });

  const tell = (text, remedy) => {
    const place = document.getElementById("problems");
    if (!place) return;
    const article = document.createElement("article");
    article.className = "problem";
    for (const [part, kind] of [[text, ""], [remedy, "remedy"]]) {
      if (!part) continue;
      const line = article.appendChild(document.createElement("p"));
      line.className = kind;
      line.textContent = part;
    }
    place.replaceChildren(article);
  };
  const lineOf = (element) => element?.textContent.trim().replace(/\s+/g, " ");
  document.addEventListener("htmx:responseError", (event) => {
    const { status, responseText } = event.detail.xhr;
    if (status === 401) {
      location.reload();
      return;
    }
    let text = `The server answered ${status}.`, remedy;
    try {
      const problem = JSON.parse(responseText);
      text = problem.detail || problem.title;
      remedy = problem.remedy;
    } catch {
      const parsed = new DOMParser().parseFromString(responseText, "text/html");
      parsed.querySelectorAll("[hidden]").forEach((element) => element.remove());
      const told = parsed.querySelector(".problem .remedy");
      remedy = lineOf(told);
      told?.remove();
      text = lineOf(parsed.querySelector(".problem")) || text;
    }
    tell(text, remedy);
  });
  document.addEventListener("htmx:sendError", () => tell("The server does not answer."));
  document.addEventListener("htmx:timeout", () => tell("The server took too long to answer."));
  document.addEventListener("htmx:beforeRequest", () => document.getElementById("problems")?.replaceChildren());
})();
