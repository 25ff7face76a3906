// One robot, looked at: its cameras, its state and the chunk that it was given.
import { chunkPlots } from "./charts.js";

const $ = (id) => document.getElementById(id);
let stream = null;

export function look(robot) {
  leave();
  $("robot-title").textContent = robot.name || robot.id;
  $("robot-note").textContent = "Waiting for its next request…";
  for (const id of ["robot-images", "robot-texts", "robot-actions"]) $(id).replaceChildren();
  $("robot-actions-title").hidden = true;
  $("robot").showModal();
  stream = new EventSource(`/robots/${encodeURIComponent(robot.id)}/events`);
  stream.addEventListener("view", (event) => show(JSON.parse(event.data)));
  stream.addEventListener("note", (event) => {
    $("robot-note").textContent = JSON.parse(event.data).text;
    stream.close();
  });
}

export function leave() {
  if (stream) stream.close();
  stream = null;
}

function show(view) {
  const at = new Date(view.at * 1000).toLocaleTimeString();
  $("robot-note").textContent = `What it sent, and was answered, at ${at}`;
  $("robot-images").replaceChildren(...view.images.map((image) => {
    const figure = document.createElement("figure"), picture = document.createElement("img");
    picture.src = image.source;
    picture.alt = `Camera ${image.name}`;
    const caption = document.createElement("figcaption");
    caption.textContent = image.name;
    figure.append(picture, caption);
    return figure;
  }));
  const entries = [
    ...view.texts.map((each) => [each.name, each.text]),
    ...view.states.map((each) => [each.name, each.values.map(short).join("  ")]),
  ];
  $("robot-texts").replaceChildren(...entries.flatMap(([name, text]) => {
    const term = document.createElement("dt"), detail = document.createElement("dd");
    term.textContent = name;
    detail.textContent = text;
    return [term, detail];
  }));
  $("robot-actions-title").hidden = view.actions === null;
  if (view.actions) {
    $("robot-actions-title").textContent =
      `Action chunk, ${view.actions.length} steps of ${view.actions[0].length} numbers`;
    chunkPlots($("robot-actions"), view.actions);
  }
}

const short = (value) => (value === null ? "NaN" : String(Number(value.toPrecision(4))));

$("robot").addEventListener("close", leave);
