// Search as you type, the progress of a refresh, and copying. Without it, everything still works.
(() => {
  "use strict";
  const WAIT_MS = 200;
  const POLL_MS = 1000;
  const SLASH = "artifact-cache-slash";
  const byId = (id) => document.getElementById(id);
  document.documentElement.classList.add("ac-script");

  // A page of ours, as a document; nothing in it runs.
  const load = async (url, signal) => {
    const response = await fetch(url, { signal, headers: { Accept: "text/html" }, credentials: "same-origin" });
    return new DOMParser().parseFromString(await response.text(), "text/html");
  };
  const swap = (from, id) => {
    const [before, after] = [byId(id), from.getElementById(id)];
    if (before && after) before.replaceWith(document.adoptNode(after));
    return Boolean(after);
  };

  // A browser may keep nothing; then it is asked anew on every page.
  const recall = (key) => {
    try { return localStorage.getItem(key); } catch { return null; }
  };
  const keep = (key, value) => {
    try { localStorage.setItem(key, value); } catch { /* Only for this page. */ }
  };

  const form = byId("ac-search");
  const status = byId("ac-status");
  if (form) search();
  if (byId("ac-run")) follow();
  document.addEventListener("click", copy);
  for (const button of document.querySelectorAll(".ac-copy")) button.hidden = false;

  function search() {
    const input = byId("ac-q");
    let timer = 0;
    let asked = null;
    const address = () => {
      const values = [...new FormData(form)].filter(([name, value]) => value && !(name === "sort" && value === "relevance"));
      const query = new URLSearchParams(values).toString();
      return form.getAttribute("action") + (query ? "?" + query : "");
    };
    const update = async () => {
      if (asked) asked.abort();
      const mine = (asked = new AbortController());
      const url = address();
      byId("ac-results").setAttribute("aria-busy", "true");
      try {
        const found = await load(url, mine.signal);
        if (mine !== asked) return;
        const title = found.title;
        const told = found.getElementById("ac-status");
        // An error is a page of its own, so it is gone to.
        if (!swap(found, "ac-results")) return void location.assign(url);
        swap(found, "ac-filters");
        swap(found, "ac-hidden-filters");
        document.title = title;
        history.replaceState(null, "", url);
        status.textContent = told.dataset.text;
      } catch (error) {
        if (error.name !== "AbortError") form.submit();
      } finally {
        if (mine === asked) byId("ac-results").removeAttribute("aria-busy");
      }
    };
    const soon = (ms) => {
      clearTimeout(timer);
      timer = setTimeout(update, ms);
    };
    input.addEventListener("input", (event) => event.isComposing || soon(WAIT_MS));
    input.addEventListener("compositionend", () => soon(WAIT_MS));
    byId("ac-sort").addEventListener("change", () => soon(0));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      soon(0);
    });
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !input.value) return;
      event.preventDefault();
      input.value = "";
      soon(0);
    });
    const box = byId("ac-slash");
    if (box) shortcut(input, box);
  }

  // A key by itself gets in the way of those who speak, or whose hands tremble: a box turns it off.
  function shortcut(input, box) {
    const shown = () => box.checked ? input.setAttribute("aria-keyshortcuts", "/") : input.removeAttribute("aria-keyshortcuts");
    box.checked = recall(SLASH) !== "off";
    shown();
    box.closest("[hidden]").hidden = false;
    box.addEventListener("change", () => {
      keep(SLASH, box.checked ? "on" : "off");
      shown();
    });
    document.addEventListener("keydown", (event) => {
      const typing = event.target.closest("input, textarea, select, [contenteditable]");
      if (event.key !== "/" || !box.checked || typing || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      input.focus();
      input.select();
    });
  }

  function follow() {
    const next = async () => {
      if (byId("ac-run").dataset.going !== "yes") return;
      try {
        const found = await load(location.href);
        const focused = document.activeElement && byId("ac-run").contains(document.activeElement);
        if (!swap(found, "ac-run")) return;
        const run = byId("ac-run");
        const heading = run.querySelector("h2");
        if (focused) {
          heading.tabIndex = -1;
          heading.focus();
        }
        if (status.textContent !== heading.textContent) status.textContent = heading.textContent;
      } catch { /* The app may be starting again; the next time tells. */ }
      setTimeout(next, POLL_MS);
    };
    setTimeout(next, POLL_MS / 4);
  }

  async function copy(event) {
    const button = event.target.closest(".ac-copy");
    if (!button) return;
    const target = byId(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(target.textContent);
      button.firstChild.data = button.dataset.copied;
    } catch {
      getSelection().selectAllChildren(target);
    }
  }
})();
