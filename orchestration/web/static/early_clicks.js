// What is clicked or submitted before the page's scripts are there waits for them. Loaded before the body, not deferred.
"use strict";
(() => {
  let early;
  const hold = (event, act) => {
    event.preventDefault();
    event.stopImmediatePropagation();
    early = act;
  };
  const clicked = (event) => {
    const button = event.target.closest("button[type=button]");
    if (button) hold(event, () => button.click());
  };
  // a form that htmx sends has no address of its own: the browser would ask for this page again
  const submitted = (event) => {
    const form = event.target;
    if (form.matches("[hx-post]")) hold(event, () => form.requestSubmit(event.submitter));
  };
  document.addEventListener("click", clicked, true);
  document.addEventListener("submit", submitted, true);
  // after the other listeners of this event: htmx begins there
  document.addEventListener("DOMContentLoaded", () => setTimeout(() => {
    document.removeEventListener("click", clicked, true);
    document.removeEventListener("submit", submitted, true);
    early?.();
  }));
})();
