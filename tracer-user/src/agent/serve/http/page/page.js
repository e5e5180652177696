// The page asks the agent every few seconds and shows what it says. Names come from the programs that are watched and may hold anything:
// they only ever become text (textContent), never markup.
"use strict";

// The address that the agent prints has the token. This tab keeps it; the address bar and the history do not.
const printed = new URLSearchParams(location.search).get("token");
if (printed) {
  sessionStorage.setItem("token", printed);
  history.replaceState(null, "", location.pathname + location.hash);
}

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

const number = (value) => (value ?? null) === null ? "-" : value.toLocaleString("en");

const duration = (seconds) => {
  if (seconds === null) return "";
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
};

const badge = (word, kinds) => element("span", { class: `badge ${kinds.includes(word) ? word : ""}` }, word);
const verdict = (word) => badge(word, ["proven", "likely", "suspect"]);
const level = (word) => badge(word, ["isolate", "intervene", "warn"]);

const where = (process) => process.pod || process.unit || process.container?.slice(0, 12) || process.exe;

// Whether any of these contains what the filter asks for.
const wanted = (...texts) => texts.join(" ").toLowerCase().includes(byId("filter").value.trim().toLowerCase());

const drawn = (name, attributes, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

// Goroutines that wait for each other, in a circle: an arrow leads from each to the one that could let it go on, dashed where that is
// inferred. Of a long ring the arrow of the last one leads nowhere.
const ring = (waits) => {
  if (!waits.length) return null;
  const place = (at) => {
    const angle = (2 * Math.PI * at) / waits.length - Math.PI / 2;
    return [320 + 150 * Math.cos(angle), 95 + 62 * Math.sin(angle)];
  };
  const number = new Map(waits.map((wait, at) => [wait.waiter, at]));
  const svg = drawn("svg", { viewBox: "0 0 640 190", class: "ring", role: "img", "aria-label": "who waits for whom" });
  svg.append(drawn("marker", { id: "tip", viewBox: "0 0 8 8", refX: 15, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" },
    drawn("path", { d: "M0 0 8 4 0 8z" })));
  waits.forEach((wait, at) => {
    const [x, y] = place(at);
    if (!number.has(wait.holder)) return;
    const [toX, toY] = place(number.get(wait.holder));
    // Two that wait for each other have two arrows, and one that waits for itself a loop.
    const [midX, midY] = [(x + toX) / 2 + (toY - y) / 5, (y + toY) / 2 - (toX - x) / 5];
    const d = wait.holder === wait.waiter ? `M${x} ${y}c-60 80 60 80 0 0` : `M${x} ${y}Q${midX} ${midY} ${toX} ${toY}`;
    svg.append(drawn("path", { d, class: wait.inferred ? "wait inferred" : "wait", "marker-end": "url(#tip)" },
      drawn("title", {}, `waits ${wait.wants} ${wait.object}`)));
  });
  waits.forEach((wait, at) => {
    const [x, y] = place(at);
    const left = x < 319;
    const label = { x: x + (left ? -12 : 12), y: y + 4, "text-anchor": left ? "end" : "start" };
    svg.append(drawn("circle", { cx: x, cy: y, r: 7 }));
    svg.append(drawn("text", label, `goroutine ${wait.waiter}${wait.at ? ` ${wait.at.func}:${wait.at.line}` : ""}`));
  });
  return svg;
};

// Goroutines of the last hour as a line, leaked ones as an area below it; both from zero, the hour from left to right.
const trend = (history) => {
  const values = history.map((step) => step.goroutines);
  const svg = drawn("svg", { viewBox: "0 0 100 20", preserveAspectRatio: "none", role: "img", "aria-label": values.join(", ") });
  svg.append(drawn("line", { x1: 0, x2: 100, y1: 19.5, y2: 19.5, class: "ground" }));
  if (!history.length) return svg;
  const now = Date.now() / 1000;
  const x = (seconds) => Math.min(100, Math.max(0, 100 - (now - seconds) / 36)).toFixed(1);
  const most = Math.max(1, ...values);
  const points = (value) => {
    const y = (step) => (19 - (18 * value(step)) / most).toFixed(1);
    const ends = history.map((step) => `${x(step.start_unix_s + step.seconds)},${y(step)}`);
    return [`${x(history[0].start_unix_s)},${y(history[0])}`, ...ends].join(" ");
  };
  if (history.some((step) => step.leaked > 0)) {
    const leaked = points((step) => step.leaked);
    const [left, right] = [leaked.split(",")[0], x(history.at(-1).start_unix_s + history.at(-1).seconds)];
    svg.append(drawn("polygon", { points: `${left},19 ${leaked} ${right},19`, class: "area" }));
    svg.append(drawn("polyline", { points: leaked, class: "leaked" }));
  }
  svg.append(drawn("polyline", { points: points((step) => step.goroutines), class: "all" }));
  return svg;
};

const showNode = (node, processes, leaks) => {
  const percent = (cores) => `${(cores * 100).toFixed(cores < 0.0995 ? 1 : 0)} %`;
  const certain = leaks.filter((leak) => leak.verdict !== "suspect");
  const sum = (list, value) => list.reduce((all, one) => all + (value(one) ?? 0), 0);
  const modes = ["full", "wait", "life"].map((mode) => [mode, processes.filter((one) => one.mode === mode).length]);
  const probed = modes.filter(([, count]) => count).map(([mode, count]) => `${count} ${mode}`).join(", ");
  const [asked, kept] = [node.interval_seconds, node.achieved_interval_seconds || node.interval_seconds];
  const scanned = `scanned every ${duration(kept)}${kept > 1.5 * asked ? `, ${duration(asked)} asked for` : ""}`;
  const facts = [
    ["Leaked goroutines", number(sum(certain, (leak) => leak.count)), `in ${certain.length} findings, ${leaks.length - certain.length} suspects`],
    ["Go processes", node.tracked, `of ${node.processes} on the node`],
    ["Goroutines", number(sum(processes, (one) => one.goroutines)), scanned],
    ["Probes", probed || "none", probed ? "the others are polled" : "all processes are polled"],
    ["The agent costs", `${percent(node.used_cores)} of a core`, `budget ${percent(node.budget_cores)}, ${bytes(node.rss_bytes)}`],
  ];
  byId("facts").replaceChildren(...facts.map(([name, value, more]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value, " ", element("small", {}, more)))));
  byId("errors").replaceChildren(...node.errors.map((error) => element("li", {}, error)));
};

// Those with leaks come first, then the largest.
const showProcesses = (processes) => {
  const shown = processes.filter((one) => wanted(one.service, one.pid, where(one), one.module));
  shown.sort((a, b) => b.leaked - a.leaked || (b.goroutines ?? 0) - (a.goroutines ?? 0));
  byId("processes").replaceChildren(...shown.map((process) => {
    const waits = process.states.slice(0, 3).map((row) => `${row.count} ${row.wait_reason || row.state}`).join(", ");
    const limit = process.memory_limit_bytes ? element("small", {}, ` of ${bytes(process.memory_limit_bytes)}`) : null;
    return element("tr", {},
      element("td", {}, process.service, " ", element("small", { class: "word" }, `PID ${process.pid}`), element("br"), element("small", {}, where(process))),
      element("td", {}, trend(process.history)),
      element("td", { class: "number" }, number(process.goroutines)),
      element("td", { class: process.leaked ? "number bad" : "number" }, number(process.leaked)),
      element("td", { class: "number" }, bytes(process.heap_bytes), limit),
      element("td", {}, process.error ? element("span", { class: "bad" }, process.error) : waits),
      element("td", { title: process.mode_reason }, process.mode, process.mode === process.wanted_mode ? null : ` (of ${process.wanted_mode})`),
      element("td", { class: "word" }, process.go_version.replace(/^go/, "")));
  }));
};

const leakHeads = ["Verdict", "Count", "What", "Service", "Oldest", "Growth", "Pins"];

// What is open stays open when the list is made anew. An address that ends in #PID-ID begins with that leak open.
let first = true;
const showLeaks = (leaks) => {
  const open = new Set([...document.querySelectorAll("#leaks details[open]")].map((details) => details.dataset.key));
  const place = (at) => `${at.func}\n        ${at.file}:${at.line}`;
  const shown = leaks.filter((leak) => wanted(leak.process.service, leak.process.pid, leak.process.pod, leak.class, leak.title, leak.verdict));
  const items = shown.map((leak) => {
    const key = `${leak.process.pid}-${leak.id}`;
    const stack = leak.stack_trace.map(place).join("\n") + (leak.created_by ? `\ncreated by ${place(leak.created_by)}` : "");
    const at = leak.stack_trace.find((frame) => !/^(runtime|sync|internal)[./]/.test(frame.func));
    const details = element("details", { "data-key": key },
      element("summary", {},
        verdict(leak.verdict),
        element("span", { class: "number" }, number(leak.count)),
        element("span", {}, leak.title, " ", element("small", {}, at?.func ?? leak.created_by?.func ?? leak.class)),
        element("span", {}, leak.process.service, " ", element("small", { class: "word" }, `PID ${leak.process.pid}`)),
        element("span", { class: "number" }, duration(leak.duration)),
        element("span", { class: "number" }, leak.growth_per_s ? `+${(leak.growth_per_s * 60).toFixed(1)}/min` : ""),
        element("span", { class: "number" }, leak.pinned_bytes ? bytes(leak.pinned_bytes) : "")),
      element("div", { class: "body" },
        element("p", {}, leak.explanation),
        ring(leak.ring),
        element("ul", {}, ...leak.evidence.map((line) => element("li", {}, line))),
        stack ? element("pre", {}, stack) : null,
        element("p", {}, element("b", {}, "What to do: "), leak.fix)));
    details.open = open.has(key) || (first && location.hash === `#${key}`);
    return details;
  });
  first = false;
  const heads = element("div", { class: "heads" }, ...leakHeads.map((head, at) => element("span", at === 1 || at > 3 ? { class: "number" } : {}, head)));
  byId("leaks").replaceChildren(...(items.length ? [heads, ...items] : [element("p", { class: "quiet" }, "none found")]));
};

// Those of the lowest level only say what the leaks below say, too: they are counted.
const showAlerts = (alerts) => {
  const order = ["isolate", "intervene", "warn"];
  const asked = alerts.filter((alert) => wanted(alert.service, alert.pid, alert.class, alert.level));
  const shown = asked.filter((alert) => order.includes(alert.level));
  shown.sort((a, b) => order.indexOf(a.level) - order.indexOf(b.level) || a.since_unix_ms - b.since_unix_ms);
  byId("alerts-section").hidden = asked.length === 0;
  const others = asked.length - shown.length;
  byId("alerts-others").textContent = others ? `${shown.length ? "and " : ""}${others} to observe` : "";
  byId("alerts-table").hidden = shown.length === 0;
  byId("alerts").replaceChildren(...shown.map((alert) => element("tr", {},
    element("td", {}, level(alert.level)),
    element("td", {}, alert.service, " ", element("small", { class: "word" }, `PID ${alert.pid}`)),
    element("td", {}, alert.class),
    element("td", {}, alert.reason),
    element("td", { class: "number" }, duration((Date.now() - alert.since_unix_ms) / 1000)))));
};

const say = (text) => { byId("status").textContent = text; };

const failed = (error) => {
  byId("login").hidden = error.status !== 401;
  byId("main").hidden = error.status === 401;
  say(error.status === 401 ? "" : `the agent does not answer: ${error.message}`);
};

// What was told last; the filter shows another part of it.
let told = null;

const draw = () => {
  if (!told) return;
  const [node, processes, leaks, alerts] = told;
  showNode(node, processes, leaks);
  showAlerts(alerts);
  showLeaks(leaks);
  showProcesses(processes);
};

const show = async () => {
  try {
    told = await Promise.all([
      ask("/sfgi/node"), ask("/sfgi/processes?limit=1000"), ask("/sfgi/leaks?limit=200"), ask("/sfgi/alerts")]);
    byId("login").hidden = true;
    byId("main").hidden = false;
    draw();
    say(`as of ${new Date().toLocaleTimeString()}`);
  } catch (error) {
    failed(error);
  }
};

byId("filter").addEventListener("input", draw);

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
