// The page's own part beside Vega-Embed: draws each figure when it is first seen, and lets the
// controls act. A control says in its data attributes what it does; nothing here knows a study.
const specs = JSON.parse(document.getElementById("figures").textContent);
const views = new Map(); // a chart's element -> its Vega view, once it is drawn
const hiddenTasks = new Set();
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

async function draw(chart) {
  const { view } = await vegaEmbed(chart, specs[chart.dataset.figure], {
    actions: false,
    renderer: "svg",
  });
  views.set(chart, view);
  for (const control of all("[data-signal]", chart.closest("figure"))) tell(view, control);
  await set(view, "hidden_tasks", [...hiddenTasks]);
}

// A chart without the signal has nothing to change.
async function set(view, name, value) {
  if (name in view.getState().signals) await view.signal(name, value).runAsync();
}

function tell(view, control) {
  const value = control.type === "range" ? Number(control.value) : control.value;
  return set(view, control.dataset.signal, value);
}

// A chart in a hidden part has no width: it is drawn when it is shown.
async function drawShown() {
  const shown = all(".chart").filter((chart) => !chart.dataset.drawn && chart.offsetWidth > 0);
  for (const chart of shown) chart.dataset.drawn = "yes";
  await Promise.all(shown.map(draw));
  document.body.dataset.drawn = "yes";
}

function steer(control) {
  if (control.type === "range") {
    const label = control.dataset.labels.split("|")[control.value];
    control.setAttribute("aria-valuetext", label);
    control.nextElementSibling.value = label;
  }
  for (const chart of all(".chart", control.closest("figure"))) {
    if (views.has(chart)) tell(views.get(chart), control);
  }
}

function toggleTask(button) {
  const { task } = button.dataset;
  if (!hiddenTasks.delete(task)) hiddenTasks.add(task);
  button.setAttribute("aria-pressed", !hiddenTasks.has(task));
  for (const panel of all("[data-panel-task]")) panel.hidden = hiddenTasks.has(panel.dataset.panelTask);
  for (const view of views.values()) set(view, "hidden_tasks", [...hiddenTasks]);
  drawShown();
}

// Numbers are compared as numbers, what is undefined stands last in both directions.
function sortBy(button) {
  const head = button.closest("th");
  const table = head.closest("table");
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const th of all("th[aria-sort]", table)) th.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = (row) => {
    const cell = row.cells[head.cellIndex];
    return cell.dataset.value ?? cell.textContent.trim();
  };
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const difference = Number(a) - Number(b);
    const order = Number.isNaN(difference) ? a.localeCompare(b) : difference;
    return up ? order : -order;
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
}

function filter(form) {
  const wanted = [...new FormData(form)].filter(([, value]) => value !== "");
  const items = all(`#${form.dataset.filters} > *`);
  for (const item of items) item.hidden = !wanted.every(([name, value]) => item.dataset[name] === value);
  form.querySelector("output").value = items.filter((item) => !item.hidden).length;
}

function choose(select) {
  for (const part of all("[data-variant]")) part.hidden = part.dataset.variant !== select.value;
  drawShown();
}

document.addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (button?.closest("th")) sortBy(button);
  else if (button?.dataset.task) toggleTask(button);
});
document.addEventListener("input", ({ target }) => {
  if (target.dataset.signal) steer(target);
  else if (target.form?.dataset.filters) filter(target.form);
  else if (target.id === "variant") choose(target);
});
for (const form of all("form[data-filters]")) filter(form);
const select = document.getElementById("variant");
if (select) choose(select);
drawShown();
