// The page: one stream of events in, tables out. Rows are kept and changed, not made anew, so that
// a hundred robots a second cost little and a reader's place is not lost.
import { events, showBrokers } from "./brokers.js";
import { latencyChart } from "./charts.js";
import { look } from "./robot.js";
import { keep, numbers, table, write } from "./rows.js";
import { teams } from "./teams.js";

const $ = (id) => document.getElementById(id);
const STAGES = ["queue", "decode", "wait", "infer", "encode"];
const LINES = { p50: "worker, median", p95: "worker, 95 %", queue_p95: "queue, 95 %" };
const SHOWN_S = 600, KEPT = 1800, SILENT_MS = 4000;
let points = [], stream = null, heardAt = 0, last = null, shownOf = "";

function connect() {
  if (stream) stream.close();
  stream = new EventSource(events());
  stream.addEventListener("status", (event) => {
    heardAt = Date.now();
    show(JSON.parse(event.data));
  });
  stream.onerror = async () => {
    // EventSource tells no status: whoever is not let in is asked for a key.
    if (stream.readyState === EventSource.CLOSED) {
      const answer = await fetch("/status").catch(() => null);
      if (answer && answer.status === 401) askForKey(); else setTimeout(connect, 1000);
    }
  };
}

function askForKey() {
  if (!$("login").open) $("login").showModal();
}

$("login").addEventListener("cancel", (event) => event.preventDefault());
$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const headers = { Authorization: `Api-Key ${$("login-key").value}` };
  const answer = await fetch("/login", { method: "POST", headers }).catch(() => null);
  if (answer && answer.ok) {
    $("login-key").value = "";
    $("login").close();
    connect();
  } else {
    $("login-error").textContent = answer ? (await answer.json()).error : "the gateway is not there";
  }
});

function show(news) {
  last = news;
  showBrokers(news.brokers, connect);
  const address = news.brokers.find((each) => each.is_shown).address;
  if (address !== shownOf) points = [];
  shownOf = address;
  if (news.points.length && points.length && news.points[0].at <= points[points.length - 1].at) points = [];
  points = points.concat(news.points).slice(-KEPT);
  trouble(news.trouble);
  errors(news.errors);
  if (!news.broker.version) return;
  const broker = news.broker;
  $("broker").textContent = `broker ${broker.version}, up ${duration(broker.uptime_s)}`;
  tiles(broker, news);
  const age = points.length ? points[points.length - 1].at - points[0].at : 0;
  const shown = [120, 300].find((seconds) => age <= seconds) || SHOWN_S;
  latencyChart($("latency"), points, Object.keys(LINES), shown);
  workers(broker.workers);
  policies(broker);
  teams(broker, address);
  robots(broker.robots, news.gateway.clients);
}

function trouble(text) {
  $("trouble").hidden = !text;
  if (text && $("trouble").textContent !== text) $("trouble").textContent = text;
  document.body.classList.toggle("stale", Boolean(text));
}

function tiles(broker, news) {
  const active = broker.robots.filter((robot) => robot.seen_s_ago < 60).length;
  const ready = broker.workers.filter((worker) => worker.state === "ready").length;
  const waiting = Object.values(broker.queues).reduce((sum, count) => sum + count, 0);
  const recent = news.errors.filter((error) => error.at > news.at - 60).length;
  const point = points[points.length - 1] || { rate: 0, p95: 0 };
  const shown = [
    ["robots in the last minute", active], [`of ${broker.workers_in_all} workers ready`, ready, ready === 0],
    ["answers a second", point.rate.toFixed(1)], ["ms, worker's 95 %", point.p95.toFixed(0)],
    ["waiting", waiting], ["errors in the last minute", recent, recent > 0],
  ];
  keep($("tiles"), shown, ([name]) => name, () => {
    const tile = document.createElement("div");
    tile.append(document.createElement("b"), document.createElement("span"));
    return tile;
  }, (tile, [name, value, isBad]) => {
    tile.className = isBad ? "tile bad" : "tile";
    write(tile.firstChild, value);
    write(tile.lastChild, name);
  });
}

function workers(list) {
  $("no-workers").hidden = list.length > 0;
  table($("workers"), list, (worker) => worker.id, 6, (cells, worker) => {
    write(cells[0], worker.name);
    cells[1].className = `state ${worker.state}`;
    write(cells[1], worker.state);
    const doing = worker.robots.filter(Boolean).join(", ") || `${worker.in_hand} requests`;
    write(cells[2], worker.in_hand ? `${doing} (${worker.in_hand} of ${worker.slots})` : "idle");
    cells[2].className = "text";
    numbers(cells, { 3: worker.mean_ms.toFixed(1), 4: ago(worker.heard_ms_ago / 1000) });
    cells[5].className = "id";
    write(cells[5], worker.id);
  });
}

function policies(broker) {
  const names = [...new Set([...Object.keys(broker.policies), ...Object.keys(broker.queues)])].sort();
  table($("policies"), names, (name) => name, 8, (cells, name) => {
    const { outcomes, held, guards } = broker.policies[name] || { outcomes: {}, held: 0, guards: {} };
    write(cells[0], name);
    numbers(cells, { 1: broker.queues[name] || 0, 2: outcomes.answered || 0, 3: outcomes.failed || 0,
      4: outcomes.expired || 0, 5: outcomes.superseded || 0, 6: held });
    const rules = Object.entries(guards).flatMap(([what, counts]) => Object.entries(counts)
      .sort((a, b) => b[1] - a[1]).map(([rule, count]) => `${rule.replace(/\/([^/]*)$/, " $1")} ${what} ${count}`));
    cells[7].className = "text";
    cells[7].title = rules.join(", ");
    write(cells[7], rules.slice(0, 3).join(", ") + (rules.length > 3 ? `, ${rules.length - 3} more` : ""));
  });
}

function errors(list) {
  const shown = [...list].reverse().slice(0, 30);
  $("no-errors").hidden = shown.length > 0;
  keep($("errors"), shown, (error) => `${error.at} ${error.number}`, (error) => {
    const item = document.createElement("li");
    const time = document.createElement("time"), code = document.createElement("b");
    time.textContent = new Date(error.at * 1000).toLocaleTimeString();
    code.textContent = error.code.replaceAll("_", " ");
    code.title = error.meaning;
    const who = [error.robot, error.policy && `asking ${error.policy}`].filter(Boolean).join(" ");
    item.append(time, code, who ? `${who}: ${error.message}` : error.message);
    return item;
  }, () => {});
}

function robots(list, clients) {
  const dialects = new Map(clients.map((client) => [client.id, client.dialect]));
  const words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = list.filter((robot) =>
    words.every((word) => `${robot.name} ${robot.policy} ${robot.id}`.toLowerCase().includes(word)));
  found.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }) || a.id.localeCompare(b.id));
  $("no-robots").hidden = found.length > 0;
  const longest = Math.max(1, ...found.map(total));
  table($("robot-rows"), found, (robot) => robot.id, 8, (cells, robot) => {
    if (!cells[0].firstChild) {
      const button = document.createElement("button");
      button.type = "button";
      cells[0].append(button);
      cells[2].append(splitBar());
    }
    const button = cells[0].firstChild;
    write(button, robot.name || robot.id);
    button.onclick = () => look(robot);
    button.title = [robot.id, dialects.get(robot.id), robot.key && `key ${robot.key}`].filter(Boolean).join(", ");
    write(cells[1], robot.policy);
    fillBar(cells[2].firstChild, robot, longest);
    numbers(cells, { 3: total(robot) ? total(robot).toFixed(1) : "", 5: ago(robot.seen_s_ago), 6: robot.requests, 7: robot.held });
    write(cells[4], robot.in_hand ? "computing" : robot.waiting ? "waiting" : "");
  });
}

const total = (robot) => (robot.timing.queue_ms || 0) + (robot.timing.worker_ms || 0);

function splitBar() {
  const bar = document.createElement("div");
  bar.className = "split";
  for (const stage of [...STAGES, "other"]) {
    const part = document.createElement("i");
    part.className = stage;
    bar.append(part);
  }
  return bar;
}

function fillBar(bar, robot, longest) {
  const spent = STAGES.map((stage) => Math.max(0, robot.timing[`${stage}_ms`] || 0));
  const other = Math.max(0, total(robot) - spent.reduce((sum, value) => sum + value, 0));
  const parts = [...spent, other];
  parts.forEach((value, index) => { bar.children[index].style.width = `${(100 * value) / longest}%`; });
  const names = [...STAGES, "other"];
  bar.title = parts.map((value, index) => `${names[index]} ${value.toFixed(1)} ms`).join(", ");
}

const ago = (seconds) => (seconds < 1 ? "now" : `${duration(seconds)} ago`);

function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

function legend(holder, entries) {
  holder.append(...Object.entries(entries).map(([name, text]) => {
    const entry = document.createElement("span"), colour = document.createElement("i");
    colour.className = name;
    entry.append(colour, text);
    return entry;
  }));
}

function theme(chosen) {
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
}

theme(new URLSearchParams(location.search).get("theme") || localStorage.getItem("theme"));
$("theme").addEventListener("click", () => {
  const isDark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  localStorage.setItem("theme", isDark ? "light" : "dark");
  theme(isDark ? "light" : "dark");
});
$("find").addEventListener("input", () => last && last.broker.version && robots(last.broker.robots, last.gateway.clients));
document.addEventListener("keydown", (event) => {
  const isTyping = event.target instanceof HTMLInputElement;
  if (event.key === "/" && !isTyping) { event.preventDefault(); $("find").focus(); }
});
setInterval(() => {
  if (heardAt && Date.now() - heardAt > SILENT_MS) {
    trouble("The gateway does not answer. This page tries again by itself; what it shows is old.");
    heardAt = 0;
  }
}, 1000);
legend($("legend"), { queue: "queue", decode: "decode", wait: "wait", infer: "infer", encode: "encode", other: "other" });
const lines = document.createElement("span");
lines.className = "legend";
legend(lines, LINES);
$("latency").before(lines);
connect();
