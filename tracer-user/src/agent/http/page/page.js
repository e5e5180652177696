// The page asks the agent every few seconds and shows what it says. Names come from the programs that are watched and may hold anything:
// they only ever become text (textContent), never markup.
"use strict";

const EVERY_MS = 5000;
const ask = async (path, options = {}) => {
  const token = sessionStorage.getItem("token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { ...options, headers });
  const body = await response.json();
  if (!response.ok) throw Object.assign(new Error(body.error), { status: response.status });
  return body;
};

const byId = (id) => document.getElementById(id);

const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return made;
};

const bytes = (value) => {
  if (value === null || value === undefined) return "";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) { value /= 1024; at += 1; }
  return `${value.toFixed(at ? 1 : 0)} ${units[at]}`;
};

const duration = (seconds) => {
  if (seconds === null) return "";
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
};

// Goroutines of the last hour as a line, leaked ones as another.
const trend = (history) => {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 100 20");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", history.map((step) => step.goroutines).join(", "));
  const most = Math.max(1, ...history.map((step) => step.goroutines));
  const line = (kind, value) => {
    const made = document.createElementNS(space, "polyline");
    const x = (at) => (history.length > 1 ? (at * 100) / (history.length - 1) : 0);
    const points = history.map((step, at) => `${x(at).toFixed(1)},${(19 - (18 * value(step)) / most).toFixed(1)}`);
    if (points.length === 1) points.push(points[0].replace(/^[^,]*/, "100"));
    made.setAttribute("points", points.join(" "));
    made.setAttribute("class", kind);
    svg.append(made);
  };
  line("all", (step) => step.goroutines);
  if (history.some((step) => step.leaked > 0)) line("leaked", (step) => step.leaked);
  return svg;
};

const showProcesses = (processes) => {
  byId("processes").replaceChildren(...processes.map((process) => {
    const waits = process.states.slice(0, 3).map((row) => `${row.count} ${row.wait_reason || row.state}`).join(", ");
    const where = process.pod || process.unit || process.container?.slice(0, 12) || process.exe;
    return element("tr", {},
      element("td", {}, process.service, element("br"), element("small", {}, where)),
      element("td", { class: "word" }, process.pid),
      element("td", { class: "word" }, process.go_version.replace(/^go/, "")),
      element("td", { title: process.mode_reason }, process.mode, process.mode === process.wanted_mode ? null : ` (of ${process.wanted_mode})`),
      element("td", { class: "number" }, process.goroutines ?? "-"),
      element("td", {}, trend(process.history)),
      element("td", { class: process.leaked ? "number bad" : "number" }, process.leaked),
      element("td", { class: "number" }, bytes(process.heap_bytes)),
      element("td", {}, process.error ? element("span", { class: "bad" }, process.error) : waits));
  }));
};

// What is open stays open when the list is made anew.
const showLeaks = (leaks) => {
  const open = new Set([...document.querySelectorAll("#leaks details[open]")].map((details) => details.dataset.key));
  const place = (at) => `${at.func}\n        ${at.file}:${at.line}`;
  const items = leaks.map((leak) => {
    const key = `${leak.process.pid} ${leak.id}`;
    const facts = [
      `${leak.process.service}, PID ${leak.process.pid}`,
      leak.duration === null ? null : `for ${duration(leak.duration)}`,
      leak.growth_per_minute ? `${leak.growth_per_minute.toFixed(1)} more a minute` : null,
      leak.pinned_bytes ? `pins ${bytes(leak.pinned_bytes)}` : null,
    ].filter(Boolean).join(", ");
    const stack = leak.stack_trace.map(place).join("\n") + (leak.created_by ? `\ncreated by ${place(leak.created_by)}` : "");
    const details = element("details", { "data-key": key },
      element("summary", {},
        element("span", { class: `verdict ${["proven", "likely"].includes(leak.verdict) ? leak.verdict : "suspect"}` }, leak.verdict),
        ` ${leak.count} × ${leak.title} `, element("small", {}, facts)),
      element("p", {}, leak.explanation),
      element("ul", {}, ...leak.evidence.map((line) => element("li", {}, line))),
      stack ? element("pre", {}, stack) : null,
      element("p", {}, element("b", {}, "What to do: "), leak.fix));
    details.open = open.has(key);
    return details;
  });
  byId("leaks").replaceChildren(...(items.length ? items : [element("p", { class: "quiet" }, "none found")]));
};

const showAlerts = (alerts) => {
  byId("alerts-section").hidden = alerts.length === 0;
  byId("alerts").replaceChildren(...alerts.map((alert) => element("tr", {},
    element("td", {}, alert.level), element("td", {}, alert.service), element("td", { class: "word" }, alert.pid),
    element("td", {}, alert.class), element("td", {}, alert.reason))));
};

const say = (text) => { byId("status").textContent = text; };

const failed = (error) => {
  byId("login").hidden = error.status !== 401;
  byId("main").hidden = error.status === 401;
  say(error.status === 401 ? "" : `the agent does not answer: ${error.message}`);
};

const show = async () => {
  try {
    const [processes, leaks, alerts] = await Promise.all([
      ask("/sfgi/processes?limit=1000"), ask("/sfgi/leaks?limit=200"), ask("/sfgi/alerts")]);
    byId("login").hidden = true;
    byId("main").hidden = false;
    showProcesses(processes);
    showLeaks(leaks);
    showAlerts(alerts);
    const goroutines = processes.reduce((sum, process) => sum + (process.goroutines ?? 0), 0);
    say(`${processes.length} processes, ${goroutines} goroutines, ${leaks.length} findings; ${new Date().toLocaleTimeString()}`);
  } catch (error) {
    failed(error);
  }
};

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", byId("token").value);
  show();
});

byId("scan").addEventListener("click", async () => {
  try {
    say("scanning …");
    await ask("/sfgi/trigger-scan", { method: "POST" });
    await show();
  } catch (error) {
    say(error.message);
  }
});

const again = async () => {
  if (!document.hidden) await show();
  setTimeout(again, EVERY_MS);
};
again();
