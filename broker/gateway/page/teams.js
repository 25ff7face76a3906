// The broker's teams, where it has some: what each has in hand, had, and was refused.
import { numbers, table, write } from "./rows.js";

const KEPT_S = 30;
const NONE = "(no team)"; // the broker's account of robots that are in none
let history = []; // [uptime in seconds, inference seconds by team], the oldest first
let historyOf = ""; // the address of the broker that told it

const spent = (team) => Object.values(team.inference_s).reduce((sum, each) => sum + each, 0);

export function teams(broker, address) {
  const list = broker.teams || [];
  document.getElementById("teams-section").hidden = list.length === 0;
  const now = [broker.uptime_s, new Map(list.map((team) => [team.name, spent(team)]))];
  const isOther = address !== historyOf || (history.length && history[history.length - 1][0] > now[0]);
  if (isOther) history = []; // it was restarted, or another one is shown
  historyOf = address;
  history = history.filter(([uptime]) => uptime > now[0] - KEPT_S).concat([now]);
  const before = history[0][1];
  const recent = new Map(list.map((team) => [team.name, spent(team) - (before.get(team.name) || 0)]));
  const whole = [...recent.values()].reduce((sum, each) => sum + each, 0);
  table(document.getElementById("teams"), list, (team) => team.name, 7, (cells, team) => {
    write(cells[0], team.name || NONE);
    const refused = Object.entries(team.refused);
    numbers(cells, {
      1: team.weight, 2: team.in_hand,
      3: whole > 0 ? `${Math.round((100 * recent.get(team.name)) / whole)} %` : "",
      4: (team.inference_s.live || 0).toFixed(1), 5: (team.inference_s.evaluation || 0).toFixed(1),
      6: refused.reduce((sum, [, count]) => sum + count, 0),
    });
    cells[6].title = refused.map(([quota, count]) => `${quota.replaceAll("_", " ")} ${count}`).join(", ");
  });
}
