// Draws what Python computed and sends clicks back: no score is computed here. One script for a notebook and for a page.
const ORDERS = {yes_no: "order Yes, No", no_yes: "order No, Yes"};

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "text") element.textContent = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const signed = (value, digits = 3) => value == null ? "not measured" : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
const fill = (element, ...children) => element.replaceChildren(...children.filter(Boolean));

function set(model, values) {
  for (const [name, value] of Object.entries(values)) model.set(name, value);
  model.save_changes();
}

function toggled(model, head) {
  const chosen = model.get("chosen");
  set(model, {chosen: chosen.includes(head) ? chosen.filter(name => name !== head) : [...chosen, head]});
}

const gridOf = model => model.get("grids").find(grid => grid.name === model.get("column")) ?? model.get("grids")[0];

// One number of one head, in words.
function told(grid, head) {
  const [layer, index] = head.split(".").map(Number);
  const value = grid?.numbers[layer]?.[index];
  if (value == null) return `head ${head}: not measured`;
  const [low, high] = [grid.low[layer][index], grid.high[layer][index]];
  const interval = low == null ? "" : ` [${signed(low)}, ${signed(high)}]`;
  return `head ${head}: ${grid.name} ${signed(value)}${interval} ${grid.unit}`;
}

function heatMap(model) {
  const columns = make("div", {class: "ni-columns", role: "group", "aria-label": "what the heat map shows"});
  const title = make("p", {class: "ni-title"});
  const table = make("div", {class: "ni-grid", role: "grid", "aria-label": "heads: layers down, heads across"});
  const line = make("p", {class: "ni-line", role: "status"});
  const scale = make("div", {class: "ni-scale", "aria-hidden": "true"});
  const [layers, heads] = model.get("size");
  const cells = new Map();
  let place = null;

  table.style.setProperty("--heads", heads);
  table.classList.toggle("ni-many", heads > 16);
  table.append(make("span", {class: "ni-corner"}));
  for (let index = 0; index < heads; index++) table.append(make("span", {class: "ni-tick", text: index % (heads > 16 ? 4 : 1) ? "" : index}));
  for (let layer = 0; layer < layers; layer++) {
    const row = make("div", {role: "row", class: "ni-row"}, make("span", {class: "ni-tick", text: layers > 16 && layer % 2 ? "" : layer}));
    for (let index = 0; index < heads; index++) {
      const cell = make("button", {type: "button", role: "gridcell", class: "ni-cell", tabindex: -1, "data-head": `${layer}.${index}`});
      cells.set(cell.dataset.head, cell);
      row.append(cell);
    }
    table.append(row);
  }

  function step(to) {
    if (!cells.has(to)) return;
    if (place) cells.get(place).tabIndex = -1;
    place = to;
    cells.get(to).tabIndex = 0;
  }
  const say = head => { line.textContent = told(gridOf(model), head); };
  table.addEventListener("click", event => {
    const head = event.target.closest("[data-head]")?.dataset.head;
    if (!head) return;
    step(head);
    set(model, {shown: head});
  });
  table.addEventListener("mouseover", event => event.target.dataset.head && say(event.target.dataset.head));
  table.addEventListener("mouseleave", () => model.get("shown") && say(model.get("shown")));
  table.addEventListener("focusin", event => event.target.dataset.head && say(event.target.dataset.head));
  function press(event) {
    const head = event.target.dataset?.head;
    if (!head || event.ctrlKey || event.metaKey || event.altKey) return;
    const [layer, index] = head.split(".").map(Number);
    const moves = {
      ArrowUp: [layer - 1, index], ArrowDown: [layer + 1, index], ArrowLeft: [layer, index - 1], ArrowRight: [layer, index + 1],
      Home: [layer, 0], End: [layer, heads - 1], PageUp: [0, index], PageDown: [layers - 1, index],
    };
    if (event.key in moves) {
      const to = moves[event.key].join(".");
      step(to);
      cells.get(to)?.focus();
    } else if (event.key === "a") toggled(model, head);
    else return;
    event.preventDefault();
  }

  function colour() {
    const grid = gridOf(model);
    title.textContent = grid ? `${grid.title}, in ${grid.unit}` : "scores are being computed";
    for (const [head, cell] of cells) {
      const [layer, index] = head.split(".").map(Number);
      const value = grid?.numbers[layer][index];
      const share = value == null ? 0 : value / grid.reach;
      cell.style.setProperty("--share", `${(100 * Math.abs(share)).toFixed(1)}%`);
      cell.dataset.side = value == null ? "none" : share > 0 ? "no" : "yes";
      // A second mark besides the colour, for grey print and colour-blind readers.
      cell.textContent = Math.abs(share) < 0.25 ? "" : share > 0 ? "+" : "−";
      cell.toggleAttribute("data-strong", Math.abs(share) > 0.6);
      cell.setAttribute("aria-label", told(grid, head));
    }
    fill(scale, make("span", {text: grid ? signed(-grid.reach, 2) : ""}), make("i"), make("span", {text: grid ? signed(grid.reach, 2) : ""}),
      make("span", {class: "ni-soft", text: grid?.low_means ?? ""}));
    if (model.get("shown")) say(model.get("shown"));
  }
  function name() {
    const buttons = model.get("grids").map(grid => make("button", {
      type: "button", "aria-pressed": String(grid.name === gridOf(model)?.name), text: grid.name, "data-column": grid.name,
      onclick: () => set(model, {column: grid.name}),
    }));
    const unswept = model.get("live") && !model.get("grids").some(grid => grid.name === "zero ablation");
    fill(columns, ...buttons, unswept && make("button", {
      type: "button", text: "zero ablation …", "data-column": "sweep", title: "zero each head alone: takes a while, can be stopped",
      onclick: () => model.send({do: "sweep"}),
    }));
  }
  function mark() {
    for (const [head, cell] of cells) {
      cell.toggleAttribute("data-shown", head === model.get("shown"));
      cell.toggleAttribute("data-chosen", model.get("chosen").includes(head));
      cell.setAttribute("aria-selected", String(head === model.get("shown")));
    }
    step(model.get("shown") || "0.0");
  }
  const both = () => { name(); colour(); };
  both();
  mark();
  return [make("section", {class: "ni-map", "aria-label": "heat map"}, columns, title, table, scale, line),
    {"change:grids": both, "change:column": both, "change:shown": () => { mark(); say(model.get("shown")); }, "change:chosen": mark}, press];
}

// The prompt's text, shaded by the attention that each token gets; the numbers are Python's.
function strip(order) {
  const text = make("p", {class: "ni-tokens"});
  order.tokens.forEach((token, position) => {
    const query = position - order.first_query, added = query < 0 ? null : order.added[query];
    const role = order.roles[position];
    const said = {yes: "the Yes candidate, ", no: "the No candidate, "}[role] ?? "";
    const part = make("span", {
      class: `ni-token ni-role-${role || "none"}`, text: token,
      title: `${position}: ${said}attention ${order.received[position].toFixed(4)}${added == null ? "" : `, adds ${signed(added, 4)} nats`}`,
    });
    part.style.setProperty("--shade", order.shades[position]);
    if (added != null) {
      part.dataset.lean = added > 0 ? "no" : "yes";
      part.style.setProperty("--lean", `${(100 * Math.abs(order.leans[query])).toFixed(0)}%`);
    }
    text.append(part);
    if (order.breaks.includes(position)) text.append(make("br"));
  });
  const answer = order.d < 0 ? "Yes" : "No";
  return make("div", {class: "ni-order", "data-order": order.order},
    make("h4", {text: `${ORDERS[order.order]}: NAS ${signed(order.nas)}, the model says ${answer} (d = ${signed(order.d, 2)})`}), text);
}

function detail(model) {
  const heading = make("h3"), add = make("button", {type: "button", class: "ni-add", onclick: () => toggled(model, model.get("shown"))});
  const question = make("select", {"aria-label": "question", onchange: event => set(model, {question: Number(event.target.value)})});
  const numbers = make("dl", {class: "ni-numbers"}), prompt = make("div", {class: "ni-prompt", "aria-live": "polite"});
  const key = make("details", {class: "ni-soft"}, make("summary", {text: "how to read it"}), make("p", {text: model.get("key")}));

  function ask() {
    fill(question, ...model.get("questions").map((asked, place) => make("option", {value: place, text: asked.text, selected: place === model.get("question")})));
  }
  function head() {
    const shown = model.get("shown");
    heading.textContent = shown ? `Head ${shown}` : "no head yet";
    add.disabled = !shown;
    add.textContent = model.get("chosen").includes(shown) ? "remove from the list" : "add to the list";
    const [layer, index] = (shown || "0.0").split(".").map(Number);
    fill(numbers, ...(shown ? model.get("grids") : []).map(grid => {
      const [low, high] = [grid.low[layer][index], grid.high[layer][index]];
      const interval = low == null ? "" : ` [${signed(low)}, ${signed(high)}]`;
      return make("div", {}, make("dt", {text: grid.name}), make("dd", {title: grid.unit, text: signed(grid.numbers[layer][index]) + interval}));
    }));
  }
  function show() {
    const view = model.get("view");
    if (view.orders) fill(prompt, ...view.orders.map(strip));
    else fill(prompt, make("p", {class: "ni-soft", text: view.absent ?? "…"}));
  }
  ask();
  head();
  show();
  return [make("section", {class: "ni-detail", "aria-label": "one head"}, make("div", {class: "ni-head"}, heading, add), numbers,
    model.get("questions").length ? make("label", {class: "ni-question"}, make("span", {text: "on the prompt"}), question) : "", prompt, key),
    {"change:shown": head, "change:chosen": head, "change:grids": head, "change:view": show, "change:question": ask, "change:questions": ask}];
}

function list(model) {
  const names = make("ul", {class: "ni-chosen", "aria-label": "chosen heads"}), live = model.get("live");
  const factor = make("input", {type: "number", step: "0.1", value: "0.5", "aria-label": "factor"});
  const does = (text, message) => make("button", {type: "button", text, "data-do": message().do, onclick: () => model.send(message())});
  const acts = make("div", {class: "ni-acts"}, does("zero", () => ({do: "zero"})), does("knock out", () => ({do: "knockout"})),
    does("scale by", () => ({do: "scale", factor: factor.valueAsNumber})), factor);
  const effect = make("div", {class: "ni-effect", "aria-live": "polite"});

  function choose() {
    const chosen = model.get("chosen");
    fill(names, ...chosen.map(head => make("li", {},
      make("button", {type: "button", text: head, title: "show this head", onclick: () => set(model, {shown: head})}),
      make("button", {type: "button", text: "×", "aria-label": `remove ${head}`, onclick: () => toggled(model, head)}))),
      !chosen.length && make("li", {class: "ni-soft", text: live ? "none: click a head, then “add to the list”, or press a on it" : "none"}));
  }
  function affect() {
    const found = model.get("effect");
    if (!found.rows) return fill(effect);
    const body = found.rows.map(row => make("tr", {}, make("th", {scope: "row", text: row.what}),
      ...["before", "after", "change"].map(name => make("td", {text: signed(row[name], 3), "data-cell": name}))));
    fill(effect, make("table", {}, make("caption", {text: `${found.heads.join(", ")} ${found.how}: d = logit(No) − logit(Yes)`}),
      make("thead", {}, make("tr", {}, ...["", "before", "after", "change"].map(text => make("th", {scope: "col", text})))), make("tbody", {}, ...body)));
  }
  choose();
  affect();
  return [make("section", {class: "ni-list", "aria-label": "list of heads"}, make("h3", {text: "Chosen heads"}), names, live ? acts : "", effect),
    {"change:chosen": choose, "change:effect": affect}];
}

function progress(model) {
  const bar = make("progress"), name = make("span"), note = make("p", {class: "ni-note", role: "alert", hidden: true});
  const stop = make("button", {type: "button", text: "stop", "data-do": "stop", onclick: () => model.send({do: "stop"})});
  const task = make("div", {class: "ni-task", hidden: true}, name, bar, stop);
  function show() {
    const {name: doing, done = 0, total = 1} = model.get("task");
    task.hidden = !doing;
    name.textContent = doing ? `${doing}, ${done} of ${total}` : "";
    bar.max = total;
    bar.value = done;
  }
  function say() { note.textContent = model.get("note"); note.hidden = !note.textContent; }
  show();
  say();
  return [make("div", {class: "ni-progress"}, task, note), {"change:task": show, "change:note": say}];
}

function render({model, el}) {
  const root = make("div", {class: "ni-explorer"});
  const parts = [heatMap(model), detail(model), list(model), progress(model)];
  root.append(...parts.map(([element]) => element));
  el.append(root);
  const handlers = parts.flatMap(([, heard]) => Object.entries(heard));
  for (const [event, act] of handlers) model.on(event, act);
  // Letters and arrows are commands of the notebook's elsewhere, and it listens on the document before anything in it.
  function press(event) {
    if (!root.contains(event.target)) return;
    for (const [, , pressed] of parts) pressed?.(event);
    event.stopPropagation();
  }
  window.addEventListener("keydown", press, true);
  return () => {
    window.removeEventListener("keydown", press, true);
    for (const [event, act] of handlers) model.off(event, act);
  };
}

// Without a kernel: the same page over values that were kept. It looks them up and computes none.
function kept(content) {
  const heard = {};
  const state = {
    ...content, live: false, note: "", task: {}, effect: content.effects[0] ?? {}, question: 0,
    column: (content.grids.find(grid => grid.name === "polarity") ?? content.grids[0])?.name ?? "",
    questions: content.prompts.map(({question}) => ({text: question})),
    shown: Object.keys(content.prompts[0]?.heads ?? {})[0] ?? "0.0",
  };
  function view() {
    const prompt = content.prompts[state.question], own = prompt?.heads[state.shown];
    if (!own) return {head: state.shown, absent: "No prompt was kept under this head."};
    return {head: state.shown, orders: prompt.orders.map((order, place) => ({...order, ...own[place]}))};
  }
  return {
    get: name => name === "view" ? view() : state[name],
    set(name, value) {
      state[name] = value;
      const events = [`change:${name}`, ...(name === "shown" || name === "question" ? ["change:view"] : [])];
      for (const event of events) for (const act of heard[event] ?? []) act();
    },
    save_changes() {},
    send() {},
    on: (event, act) => (heard[event] ??= []).push(act),
    off() {},
  };
}

// Any part of the page may ask for a head: document.dispatchEvent(new CustomEvent("ni-head", {detail: "17.7"})).
function bootAll() {
  for (const el of document.querySelectorAll(".ni-static")) {
    const content = JSON.parse(document.getElementById(el.dataset.from).textContent), model = kept(content);
    render({model, el});
    const known = ([layer, index]) => layer < content.size[0] && index < content.size[1];
    document.addEventListener("ni-head", event => known(event.detail.split(".").map(Number)) && set(model, {shown: event.detail}));
  }
}

export default {render};
