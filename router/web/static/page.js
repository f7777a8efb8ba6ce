// The board, kept up to date: sections as the router sends them, times as they pass. The page works without it.
"use strict";

(() => {
  const SILENT = 25000; // milliseconds without a word, after which the connection counts as lost
  const AGAIN = 5000; // until it is tried again where the browser does not do so itself
  const LONGEST_PRESS = 5000; // what is held down longer was let go of elsewhere

  const meta = (name) => document.querySelector(`meta[name="${name}"]`).content;
  const skew = Date.parse(meta("now")) - Date.now(); // times are the router's, whatever this machine's clock says

  // Times -----------------------------------------------------------------------------------------------------------

  function spelled(seconds) {
    const whole = Math.max(0, Math.floor(seconds));
    for (const [size, unit, lesser, name] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"]]) {
      if (whole >= size) {
        const rest = Math.floor((whole % size) / lesser);
        return `${Math.floor(whole / size)} ${unit}` + (rest ? ` ${rest} ${name}` : "");
      }
    }
    return whole >= 60 ? `${Math.floor(whole / 60)} min` : `${whole} s`;
  }

  const FORMS = {
    ago: (passed) => (passed >= 0 ? `${spelled(passed)} ago` : `in ${spelled(-passed)}`),
    due: (passed) => (passed < 0 ? `in ${spelled(-passed)}` : passed < 60 ? "now" : `${spelled(passed)} late`),
    age: spelled,
  };

  function tell(root) {
    const now = Date.now() + skew;
    for (const time of root.querySelectorAll("time[data-form]")) {
      const text = FORMS[time.dataset.form]((now - Date.parse(time.dateTime)) / 1000);
      if (time.textContent !== text) time.textContent = text;
    }
  }

  // Sections --------------------------------------------------------------------------------------------------------

  const waiting = new Map(); // section -> HTML that is not shown yet
  let pressed = 0; // since when something is held down: a click ends where it began, so nothing is replaced meanwhile

  function show() {
    if (pressed && Date.now() - pressed < LONGEST_PRESS) return;
    for (const [id, html] of waiting) {
      const section = document.getElementById(id);
      if (section) replace(section, html);
    }
    waiting.clear();
  }

  function replace(section, html) {
    const open = [...section.querySelectorAll("details[open][id]")].map((one) => one.id);
    const focused = section.contains(document.activeElement) ? document.activeElement : null;
    section.innerHTML = html;
    for (const id of open) {
      const details = document.getElementById(id);
      if (details) details.open = true;
    }
    for (const input of section.querySelectorAll('input[name="form_key"]')) input.value = meta("form-key");
    tell(section);
    if (focused) (same(focused, section) || section).focus({ preventScroll: true });
    const session = section.querySelector("[data-session]");
    if (session) {
      document.getElementById("changed").hidden = (session.dataset.session === "in") === (meta("form-key") !== "");
    }
  }

  // What stands in the place of an element that was replaced: by its id, a link by where it leads.
  function same(element, section) {
    if (element.id) return document.getElementById(element.id);
    return element.href ? [...section.querySelectorAll("a[href]")].find((one) => one.href === element.href) : null;
  }

  const press = () => { pressed = Date.now(); };
  const release = () => setTimeout(() => { pressed = 0; show(); }, 100); // the click comes after it
  document.addEventListener("pointerdown", press);
  document.addEventListener("keydown", (event) => { if (event.key === " ") press(); });
  for (const end of ["pointerup", "pointercancel", "keyup"]) document.addEventListener(end, release);
  window.addEventListener("blur", release);

  // The connection --------------------------------------------------------------------------------------------------

  const board = document.querySelector("[data-events]");
  const sign = document.getElementById("connection");
  const stale = document.getElementById("stale");
  let source = null;
  let heard = Date.now();

  function state(live) {
    const text = live ? "live" : "connection lost, trying again";
    if (sign.textContent === text) return;
    sign.textContent = text;
    sign.className = `connection ${live ? "good" : "bad"}`;
    stale.hidden = live;
    if (live) return;
    const time = document.createElement("time");
    time.dateTime = new Date(heard + skew).toISOString();
    time.dataset.form = "ago";
    stale.replaceChildren("The connection to the router is lost. What stands here is what it said ", time, ".");
    tell(stale);
  }

  function hear() {
    heard = Date.now();
    state(true);
  }

  function connect() {
    heard = Date.now();
    source = new EventSource(board.dataset.events);
    source.addEventListener("open", hear);
    source.addEventListener("heartbeat", hear);
    source.addEventListener("board", (event) => {
      hear();
      for (const [id, html] of Object.entries(JSON.parse(event.data))) waiting.set(id, html);
      show();
    });
    source.addEventListener("error", () => {
      state(false);
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, AGAIN);
    });
  }

  if (board) {
    sign.textContent = "connecting"; // without a script it says that the page is to be reloaded
    connect();
    window.addEventListener("pagehide", () => source.close());
    window.addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
  }

  setInterval(() => {
    if (board && source.readyState !== EventSource.CLOSED && Date.now() - heard > SILENT) {
      state(false);
      source.close();
      connect();
    }
    tell(document);
    if (board) show();
  }, 1000);
})();
