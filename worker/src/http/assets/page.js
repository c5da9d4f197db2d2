// Asks the worker every few seconds and shows the answer. Text goes in as text, never as markup.
"use strict";

const PAUSE = 3000;
const STATES = {
  unheld: ["read by nobody", "bad"], paused: ["paused", "warn"], here: ["read here", "ok"], elsewhere: ["read elsewhere", ""],
  free: ["being taken", "warn"], waiting: ["waits for its parent", ""], ended: ["ended", ""],
};

const byId = (id) => document.getElementById(id);

function make(name, properties, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties || {})) {
    if (value !== undefined && value !== "") node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function draw(name, properties, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(properties)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const [minutes, hours, days] = [Math.floor(seconds / 60), Math.floor(seconds / 3600), Math.floor(seconds / 86400)];
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${days} d ${hours % 24} h`;
}

const whole = (number) => number.toLocaleString("en-US");
const plural = (count, one, many) => `${whole(count)} ${count === 1 ? one : many}`;
const time = (ms) => new Date(ms).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const pill = (text, kind) => make("span", { class: `pill ${kind}` }, text);
const code = (text) => make("code", {}, text);

// Columns: [title, cell of a row, class]. A cell is a node, a text, or null for nothing. The first one is the row's header.
function table(id, columns, rows, empty) {
  const node = byId(id);
  node.setAttribute("role", "table");
  node.classList.toggle("wide", columns.length > 2);
  const titles = columns.map(([title, , kind]) => make("th", { scope: "col", role: "columnheader", class: kind }, title));
  const head = make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...titles));
  const lines = rows.map((row) => {
    const cells = columns.map(([title, cell, kind], index) => {
      const content = cell(row);
      const nothing = content === null || content === undefined || content === "";
      if (index === 0) return make("th", { scope: "row", role: "rowheader" }, content);
      const style = [kind, nothing ? "none" : ""].filter(Boolean).join(" ");
      return make("td", { role: "cell", class: style, "data-label": title }, nothing ? "" : make("span", {}, content));
    });
    return make("tr", { role: "row" }, ...cells);
  });
  if (rows.length === 0) {
    lines.push(make("tr", { role: "row" }, make("td", { class: "empty", role: "cell", colspan: columns.length }, empty)));
  }
  const body = make("tbody", { role: "rowgroup" }, ...lines);
  node.replaceChildren(node.querySelector("caption"), head, body);
}

function tile(title, value, note, kind) {
  return make("div", {}, make("dt", {}, title), make("dd", { class: kind }, value), make("dd", { class: "note" }, note));
}

function tiles(status) {
  const here = status.stream_shards.filter((shard) => shard.state === "here");
  const open = status.leases.reduce((sum, owner) => sum + owner.stream_shards, 0);
  const behind = here.reduce((most, shard) => Math.max(most, shard.age_s || 0), 0);
  const down = status.ring_shards.filter((shard) => !shard.up).length;
  const pending = status.ring_shards.reduce((sum, shard) => sum + shard.pending, 0);
  const measured = status.probes.filter((probe) => probe.lag_s !== null).map((probe) => probe.lag_s);
  const failing = status.probes.filter((probe) => probe.failing).length;
  const { parked, waiting, failing: lost } = status.parking;
  const all = [
    tile("Behind the stream", here.length ? duration(behind) : "–", "furthest stream shard here", behind > 60 ? "bad" : ""),
    tile("Stream shards", `${here.length} of ${open}`, "read here, of those that are leased"),
    tile("Ring shards", `${status.ring_shards.length - down} of ${status.ring_shards.length}`, down ? `${down} down` : "all up", down ? "bad" : ""),
    tile("Queued commands", whole(pending), "for all ring shards"),
    tile("Parked records", whole(parked), waiting ? `${waiting} wait to be parked` : "since this process began", lost ? "bad" : parked ? "warn" : ""),
    tile("Gaps", whole(status.gaps_total), "since this process began", status.gaps_total ? "bad" : ""),
  ];
  if (status.probes.length) {
    const note = failing ? `${plural(failing, "probe fails", "probes fail")}` : "write to invalidation, slowest";
    all.splice(1, 0, tile("Probed lag", measured.length ? duration(Math.max(...measured)) : "–", note, failing ? "bad" : ""));
  }
  byId("tiles").replaceChildren(...all);
}

// The smallest of 1, 2, 5, 10, … that is not below the value.
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

function chart(samples) {
  const probed = samples.some((sample) => sample.probe_s !== null);
  const sign = (name) => draw("svg", { class: "key", viewBox: "0 0 24 8", "aria-hidden": "true" }, draw("line", { class: name, x1: 0, x2: 24, y1: 4, y2: 4 }));
  const entry = (name, text) => make("span", {}, sign(name), text);
  const legend = [entry("age", "behind the stream, furthest stream shard")];
  if (probed) legend.push(entry("probe", "probed, slowest ring shard"));
  byId("legend").replaceChildren(...legend);
  const box = byId("chart");
  const width = Math.max(280, box.clientWidth), height = 176;
  const [left, right, top, bottom] = [52, 12, 10, 24];
  const values = samples.flatMap((sample) => [sample.age_s, sample.probe_s]).filter((value) => value !== null);
  if (values.length === 0) {
    box.replaceChildren(make("p", { class: "muted" }, "Nothing is read here."));
    return;
  }
  const most = ceiling(Math.max(0.1, ...values));
  const first = samples[0].at_ms, last = samples[samples.length - 1].at_ms;
  const x = (ms) => left + (width - left - right) * (last > first ? (ms - first) / (last - first) : 1);
  const y = (value) => height - bottom - (height - top - bottom) * (value / most);
  const parts = [];
  for (const value of [0, most / 2, most]) {
    parts.push(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    const text = value === 0 ? "0" : value < 1 ? `${Math.round(value * 1000)} ms` : `${value} s`;
    parts.push(draw("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, text));
  }
  const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");
  parts.push(draw("text", { x: left, y: height - 6 }, clock(first)));
  if (last > first) parts.push(draw("text", { x: width - right, y: height - 6, "text-anchor": "end" }, clock(last)));
  for (const [name, field] of [["age", "age_s"], ["probe", "probe_s"]]) {
    let path = "", pen = false;
    for (const sample of samples) {
      if (sample[field] === null) { pen = false; continue; }
      // A point by itself is shown by the round ends of a line without length.
      path += `${pen ? "L" : "M"}${x(sample.at_ms).toFixed(1)} ${y(sample[field]).toFixed(1)}${pen ? "" : "h0"}`;
      pen = true;
    }
    if (path) parts.push(draw("path", { class: name, d: path }));
  }
  const now = samples[samples.length - 1].age_s;
  const label = `Lag over the last ${duration((last - first) / 1000)}: now ${duration(now)}, at most ${duration(Math.max(...values))}`;
  box.replaceChildren(draw("svg", { class: "chart", role: "img", "aria-label": label, viewBox: `0 0 ${width} ${height}` }, ...parts));
}

let newest = null;

function show(status) {
  newest = status;
  document.title = `${status.ready.ok ? "" : "! "}${status.application} · Ringtide`;
  byId("about").textContent = `${status.application} · ${status.owner} · version ${status.version} · up ${duration(status.uptime_s)}`;
  const down = status.ring_shards.filter((shard) => !shard.up);
  const notes = [...status.live.reasons, ...status.ready.reasons, ...status.live.warnings];
  notes.push(...down.map((shard) => `ring shard ${shard.name} takes no commands, ${plural(shard.pending, "waits", "wait")} for it`));
  if (status.parking.failing) notes.push("records that cannot be used cannot be parked");
  const reasons = [...new Set(notes)];
  say("verdict", reasons.length === 0 ? "All is well" : status.live.ok ? "Needs attention" : "Unhealthy", reasons.length === 0 ? "ok" : status.live.ok ? "warn" : "bad");
  byId("attention").hidden = reasons.length === 0;
  const list = byId("reasons");
  const shown = [...list.children].map((item) => item.textContent);
  if (shown.join("\n") !== reasons.join("\n")) list.replaceChildren(...reasons.map((reason) => make("li", {}, reason)));
  byId("updated").textContent = `as of ${new Date(status.now_ms).toLocaleTimeString("en-GB")}`;
  tiles(status);
  chart(status.lag);

  const probes = new Map(status.probes.map((probe) => [probe.ring_shard, probe]));
  const probed = (shard) => {
    const probe = probes.get(shard.name);
    if (!probe) return null;
    return probe.failing ? make("span", { class: "error" }, "fails") : duration(probe.lag_s);
  };
  const flush = (shard) => shard.last_flush && `${time(shard.last_flush.at_ms)}, ${shard.last_flush.reason}, ${plural(shard.last_flush.names, "name", "names")}`;
  const columns = [
    ["Ring shard", (shard) => shard.name],
    ["State", (shard) => shard.flushing ? pill(`flush: ${shard.flushing}`, "warn") : shard.up ? pill("up", "ok") : pill("down", "bad")],
    ["Queued", (shard) => whole(shard.pending), "number"],
  ];
  if (status.probes.length) columns.push(["Probed lag", probed, "number"]);
  columns.push(["Last flush", flush]);
  table("ring", columns, status.ring_shards, "No ring shard is known.");
  table("owners", [
    ["Owner", (owner) => make("span", {}, code(owner.owner), owner.here ? " (this worker)" : "")],
    ["Stream shards", (owner) => whole(owner.stream_shards), "number"],
  ], status.leases, "No stream lease has an owner.");
  const of = (name) => status.stream_shards.filter((shard) => shard.table === name);
  table("tables", [
    ["Table", (row) => row.table],
    ["Stream", (row) => row.discovered ? pill("found", "ok") : pill("not found yet", "warn")],
    ["Stream shards", (row) => Object.entries(STATES).map(([state, [text]]) => [of(row.table).filter((shard) => shard.state === state).length, text]).filter(([count]) => count).map(([count, text]) => `${count} ${text}`).join(", ")],
    ["Problems", (row) => [...row.problems, ...row.without_successor.map((shard) => `${shard} has no successor yet`)].join("; ") || "none"],
  ], status.tables, "No table is routed.");
  const state = (shard) => pill(...STATES[shard.state]);
  table("streams", [
    ["Stream shard", (shard) => code(shard.stream_shard)],
    ["Table", (shard) => shard.table],
    ["State", (shard) => shard.error ? make("span", {}, state(shard), make("div", { class: "error" }, shard.error)) : state(shard)],
    ["Owner", (shard) => shard.owner && code(shard.owner)],
    ["Behind", (shard) => shard.age_s === null ? null : duration(shard.age_s), "number"],
    ["Undelivered", (shard) => shard.undelivered_pages ? `${plural(shard.undelivered_pages, "page", "pages")}, ${duration(shard.undelivered_s)}` : null, "number"],
    ["Checkpoint", (shard) => shard.checkpoint && code(shard.checkpoint)],
  ], status.stream_shards, "No stream shard is known yet.");
  byId("omitted").textContent = status.stream_shards_omitted ? `and ${whole(status.stream_shards_omitted)} more` : "";
  table("gaps", [
    ["When", (gap) => time(gap.at_ms)],
    ["Table", (gap) => gap.table],
    ["Stream shard", (gap) => gap.stream_shard && code(gap.stream_shard)],
    ["Reason", (gap) => gap.reason],
  ], status.gaps, "This process found none.");
}

// An unchanged text is not set again: it would be read out again.
function say(id, text, kind) {
  const node = byId(id);
  if (node.textContent !== text) node.textContent = text;
  node.className = `pill ${kind}`;
}

async function update() {
  try {
    const answer = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show(await answer.json());
  } catch (error) {
    say("verdict", "The worker does not answer", "bad");
    byId("updated").textContent = String(error.message || error);
  }
  setTimeout(update, PAUSE);
}

addEventListener("resize", () => newest && chart(newest.lag));
update();
