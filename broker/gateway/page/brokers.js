// Which of several brokers the page shows: by default the first that answers, or the one chosen here.
let chosen = null;

export const events = () => (chosen ? `/events?broker=${encodeURIComponent(chosen)}` : "/events");

export function showBrokers(list, changed) {
  const holder = document.getElementById("brokers");
  holder.hidden = list.length < 2;
  if (holder.hidden) return;
  const told = JSON.stringify([chosen, list.map((each) => [each.address, each.is_shown, !each.trouble])]);
  if (holder.dataset.told === told) return; // else a button would lose the keyboard's focus
  holder.dataset.told = told;
  holder.replaceChildren(...list.map((each) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = each.trouble ? "state suspect" : "state ready";
    button.textContent = each.address;
    button.title = each.trouble || "answers";
    button.setAttribute("aria-pressed", String(each.is_shown));
    button.addEventListener("click", () => {
      chosen = chosen === each.address ? null : each.address; // a second click: by itself again
      changed();
    });
    return button;
  }));
}
