// A click that comes before the page's scripts waits for them. Loaded before the body, so not deferred.
"use strict";
(() => {
  let early;
  const hold = (event) => {
    const button = event.target.closest("button[type=button]");
    if (!button) return;
    event.stopImmediatePropagation();
    early = button;
  };
  document.addEventListener("click", hold, true);
  // after the other listeners of this event: htmx begins there
  document.addEventListener("DOMContentLoaded", () => setTimeout(() => {
    document.removeEventListener("click", hold, true);
    early?.click();
  }));
})();
