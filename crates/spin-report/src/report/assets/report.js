(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);

  // ---- links into the page: a record opens when it is asked for
  const reveal = () => {
    let id = "";
    try { id = decodeURIComponent(location.hash.slice(1)); } catch { return; }
    const target = id && $(id);
    if (target && target.tagName === "DETAILS") {
      target.open = true;
      target.querySelector("summary").focus({ preventScroll: true });
      target.scrollIntoView({ block: "start" });
    }
  };
  addEventListener("hashchange", reveal);

  // ---- lineage: what stands behind a box
  const graph = document.querySelector("svg.graph");
  if (graph) {
    const edges = [...graph.querySelectorAll(".edge")];
    const nodes = new Map([...graph.querySelectorAll(".node")].map((node) => [node.dataset.node, node]));
    const mark = (start) => {
      const seen = new Set([start]);
      const open = [start];
      while (open.length) {
        const at = open.pop();
        for (const edge of edges) {
          if (edge.dataset.to === at && !seen.has(edge.dataset.from)) {
            seen.add(edge.dataset.from);
            open.push(edge.dataset.from);
          }
        }
      }
      graph.classList.add("marked");
      nodes.forEach((node, i) => node.classList.toggle("on", seen.has(i)));
      edges.forEach((edge) => edge.classList.toggle("on", seen.has(edge.dataset.to)));
    };
    const clear = () => graph.classList.remove("marked");
    nodes.forEach((node, i) => {
      node.addEventListener("mouseenter", () => mark(i));
      node.addEventListener("focus", () => mark(i));
      node.addEventListener("mouseleave", clear);
      node.addEventListener("blur", clear);
    });
  }

  const box = $("browser");
  if (!box) { reveal(); return; }

  // ---- texts: nothing of them is ever markup
  const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g;
  const LIMIT = 6000;
  const code = (c) => "U+" + c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
  const el = (tag, className, ...children) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.append(...children);
    return node;
  };
  const put = (node, text) => {
    let from = 0;
    for (const found of text.matchAll(HIDDEN)) {
      node.append(text.slice(from, found.index), el("span", "ctl", code(found[0])));
      from = found.index + 1;
    }
    node.append(text.slice(from));
    return node;
  };
  const plain = (text) => text.replace(HIDDEN, (c) => "[" + code(c) + "]");
  const nats = (hundredths) => {
    const value = hundredths / 100;
    return (value < 0 ? "\u2212" : "") + Math.abs(value).toFixed(2);
  };
  const share = (hundredths) => {
    const p = Math.exp(-hundredths / 100);
    return p >= 0.0995 ? Math.round(p * 100) + "%" : p >= 0.00095 ? (p * 100).toFixed(1) + "%" : "<0.1%";
  };
  const level = (hundredths) => {
    const p = Math.exp(-hundredths / 100);
    return p >= 0.9 ? 0 : p >= 0.5 ? 1 : p >= 0.1 ? 2 : p >= 0.01 ? 3 : 4;
  };

  // ---- data: arrays by place
  const { sources } = JSON.parse($("pairs").textContent);
  const ROW = { id: 0, prompt: 1, real: 2, texts: 3, models: 4 };
  const CELL = { nll: 0, margin: 1, replies: 2 };
  const REPLY = { text: 0, right: 1, finish: 2, logp: 3, tokens: 4 };
  const PAGE = 50;
  const state = { source: 0, decoding: 0, model: 0, outcome: "any", change: "any", finish: "any", sort: "order", q: "", page: 0, shown: [], at: 0 };

  const source = () => sources[state.source];
  // The last round of self-play is what people come for.
  const lastRound = (one) => {
    const found = one.models.findLastIndex((name) => /iter-\d+$/.test(name));
    return found < 0 ? one.models.length - 1 : found;
  };
  const cell = (row, model = state.model) => row[ROW.models][model];
  const reply = (row, model = state.model) => {
    const own = cell(row, model);
    return own ? own[CELL.replies][state.decoding] : null;
  };
  const textOf = (row, answer) => row[ROW.texts][answer[REPLY.text]][0];
  const haystacks = new WeakMap();
  const haystack = (row) => {
    if (!haystacks.has(row)) {
      const parts = [row[ROW.id], ...row[ROW.prompt].map((turn) => turn[1]), row[ROW.real], ...row[ROW.texts].map((text) => text[0])];
      haystacks.set(row, parts.join("\n").toLowerCase());
    }
    return haystacks.get(row);
  };

  // ---- choices
  const has = (test) => source().rows.some((row) => row[ROW.models].some((own) => own && test(own)));
  const right = (own) => { const answer = own[CELL.replies][state.decoding]; return answer && answer[REPLY.right] !== null; };
  const fill = (id, options) => {
    const select = $(id);
    select.replaceChildren(...options.map(([value, text]) => {
      const option = el("option", "", text);
      option.value = value;
      return option;
    }));
    const values = options.map(([value]) => String(value));
    if (!values.includes(String(state[id]))) state[id] = options[0][0];
    select.value = String(state[id]);
    select.disabled = options.length < 2;
  };
  const choices = () => {
    const own = source();
    const judged = has(right);
    const first = own.models[0];
    fill("source", sources.map((one, i) => [i, one.name]));
    fill("decoding", own.decodings.map((name, i) => [i, name]));
    fill("model", own.models.map((name, i) => [i, name]));
    fill("outcome", judged ? [["any", "any"], ["correct", "\u2713 correct"], ["wrong", "\u2717 wrong"]] : [["any", "any (not judged)"]]);
    fill("change", [["any", "any"], ["text", "other text than " + first]].concat(judged ? [["flip", "other mark than " + first], ["fixed", "\u2717 \u2192 \u2713 fixed"], ["broken", "\u2713 \u2192 \u2717 broken"]] : []));
    fill("finish", [["any", "any"]].concat(own.finish.map((name, i) => [i, name])));
    const sorts = [["order", "order of the data"], ["id", "id"]];
    if (has((one) => one[CELL.margin] !== null)) sorts.push(["margin-up", "margin, smallest first"], ["margin-down", "margin, largest first"]);
    if (has((one) => one[CELL.nll] !== null)) {
      sorts.push(["nll-down", "human answer, least likely first"], ["nll-up", "human answer, most likely first"]);
      sorts.push(["worse", "human answer lost most on " + first], ["better", "human answer gained most on " + first]);
    }
    sorts.push(["odd", "own answer, least likely first"]);
    fill("sort", sorts);
  };

  const passes = (row) => {
    const answer = reply(row);
    const before = reply(row, 0);
    if (state.outcome !== "any" && (!answer || answer[REPLY.right] !== (state.outcome === "correct" ? 1 : 0))) return false;
    if (state.finish !== "any" && (!answer || answer[REPLY.finish] !== Number(state.finish))) return false;
    if (state.change !== "any") {
      if (!answer || !before) return false;
      if (state.change === "text" && answer[REPLY.text] === before[REPLY.text]) return false;
      if (state.change === "text" && textOf(row, answer) === textOf(row, before)) return false;
      if (state.change === "flip" && answer[REPLY.right] === before[REPLY.right]) return false;
      if (state.change === "fixed" && !(before[REPLY.right] === 0 && answer[REPLY.right] === 1)) return false;
      if (state.change === "broken" && !(before[REPLY.right] === 1 && answer[REPLY.right] === 0)) return false;
    }
    return !state.q || haystack(row).includes(state.q.toLowerCase());
  };
  const gained = (row) => {
    const own = cell(row), first = cell(row, 0);
    return own && first && own[CELL.nll] !== null && first[CELL.nll] !== null ? own[CELL.nll] - first[CELL.nll] : null;
  };
  const of = (what) => (row) => { const own = cell(row); return own ? own[CELL[what]] : null; };
  const odd = (row) => { const answer = reply(row); return answer ? answer[REPLY.logp] : null; };
  const ORDERS = {
    "margin-up": [of("margin"), 1], "margin-down": [of("margin"), -1], "nll-up": [of("nll"), 1], "nll-down": [of("nll"), -1],
    worse: [gained, -1], better: [gained, 1], odd: [odd, -1],
  };
  const arrange = () => {
    const rows = source().rows.filter(passes);
    const order = ORDERS[state.sort];
    if (state.sort === "id") {
      rows.sort((a, b) => a[ROW.id].localeCompare(b[ROW.id], "en", { numeric: true }));
    } else if (order) {
      const [value, sign] = order;
      const keyed = rows.map((row) => [row, value(row)]);
      // Rows without a value stand at the end.
      keyed.sort((a, b) => (a[1] === null) - (b[1] === null) || sign * (a[1] - b[1]));
      return keyed.map(([row]) => row);
    }
    return rows;
  };

  // ---- drawing
  const MARKS = { 1: ["\u2713", "correct", "yes"], 0: ["\u2717", "wrong", "no"] };
  const markOf = (answer) => (answer && answer[REPLY.right] !== null ? MARKS[answer[REPLY.right]] : ["\u2013", answer ? "not judged" : "no answer", "none"]);
  const keyText = (row) => {
    const order = ORDERS[state.sort];
    const value = order ? order[0](row) : null;
    return value === null ? "" : nats(value);
  };
  const drawList = () => {
    const pages = Math.max(1, Math.ceil(state.shown.length / PAGE));
    state.page = Math.min(Math.max(0, state.page), pages - 1);
    const from = state.page * PAGE;
    $("list").start = from + 1;
    $("list").replaceChildren(...state.shown.slice(from, from + PAGE).map((row, i) => {
      const turns = row[ROW.prompt];
      const prompt = plain((turns.length ? turns[turns.length - 1][1] : "").slice(0, 140).replace(/\s+/g, " "));
      const marks = el("span", "marks");
      const said = [];
      source().models.forEach((name, model) => {
        const [sign, word, className] = markOf(reply(row, model));
        const one = el("span", className, sign);
        one.setAttribute("aria-hidden", "true");
        marks.append(one);
        said.push(name + " " + word);
      });
      const button = el("button", "", el("span", "id", plain(row[ROW.id].slice(0, 60))), el("span", "snippet", prompt), marks, el("span", "key", keyText(row)), el("span", "quiet", said.join(", ")));
      button.type = "button";
      button.dataset.at = String(from + i);
      if (from + i === state.at) button.setAttribute("aria-current", "true");
      return el("li", "", button);
    }));
    $("page").textContent = "Page " + (state.page + 1) + " of " + pages;
    $("prev").disabled = state.page === 0;
    $("next").disabled = state.page >= pages - 1;
  };
  const whole = (node, text) => {
    if (text.length <= LIMIT) return put(node, text);
    put(node, text.slice(0, LIMIT));
    const more = el("button", "more", "Show all " + text.length.toLocaleString("en") + " characters");
    more.type = "button";
    more.addEventListener("click", () => { more.remove(); put(node, text.slice(LIMIT)); });
    node.append(more);
    return node;
  };
  const tokens = (row, answer) => {
    const [text, pieces] = row[ROW.texts][answer[REPLY.text]];
    const costs = answer[REPLY.tokens];
    const node = el("p", "text");
    node.dir = "auto";
    if (!costs.length || !pieces.length || text.length > LIMIT) return whole(node, text);
    let from = 0;
    pieces.forEach((length, i) => {
      const piece = text.slice(from, from + length);
      from += length;
      const span = put(el("span", "t t" + level(costs[i])), piece);
      span.title = "p = " + share(costs[i]) + ", \u2212log p = " + nats(costs[i]) + " nats";
      node.append(span);
    });
    if (from < text.length) put(node, text.slice(from));
    if (costs.length > pieces.length) {
      const end = el("span", "t ending t" + level(costs[pieces.length]), "end");
      end.title = "the answer ends here: p = " + share(costs[pieces.length]);
      node.append(end);
    }
    return node;
  };
  const least = (row, answer) => {
    const [text, pieces] = row[ROW.texts][answer[REPLY.text]];
    const costs = answer[REPLY.tokens];
    if (!costs.length || !pieces.length) return "";
    let worst = 0;
    costs.forEach((cost, i) => { if (cost > costs[worst]) worst = i; });
    const from = pieces.slice(0, worst).reduce((sum, n) => sum + n, 0);
    const word = worst < pieces.length ? plain(text.slice(from, from + pieces[worst]).trim()) || "a space" : "the end";
    return "least likely: \u201c" + word + "\u201d at " + share(costs[worst]);
  };
  const card = (row, model) => {
    const answer = reply(row, model);
    const own = cell(row, model) || [null, null, []];
    const [sign, word, className] = markOf(answer);
    const head = el("h4", "", source().models[model] + " ", el("span", "mark-" + className, sign + " " + word));
    const node = el("section", "card", head);
    if (model === state.model) node.classList.add("chosen");
    if (answer) {
      node.append(tokens(row, answer));
      const facts = ["ended by " + source().finish[answer[REPLY.finish]], "log p " + nats(-answer[REPLY.logp])];
      const hint = least(row, answer);
      if (hint) facts.push(hint);
      node.append(el("p", "foot", facts.join(" \u00b7 ")));
    } else {
      node.append(el("p", "foot", "It gave no answer to this prompt."));
    }
    const measured = [];
    if (own[CELL.nll] !== null) measured.push("human answer: log p " + nats(-own[CELL.nll]));
    if (own[CELL.margin] !== null) measured.push("margin " + nats(own[CELL.margin]));
    if (measured.length) node.append(el("p", "foot", measured.join(" \u00b7 ")));
    return node;
  };
  const drawDetail = () => {
    const row = state.shown[state.at];
    const detail = $("detail");
    if (!row) {
      const title = el("h3", "", "No row");
      title.id = "detail-title";
      detail.replaceChildren(title, el("p", "foot", "Nothing fits the search and the filters."));
      return;
    }
    const title = put(el("h3"), row[ROW.id]);
    title.id = "detail-title";
    title.tabIndex = -1;
    const prompt = el("div", "prompt");
    row[ROW.prompt].forEach(([role, text]) => {
      prompt.append(el("p", "role", plain(role)));
      const words = el("p", "text");
      words.dir = "auto";
      prompt.append(whole(words, text));
    });
    const human = el("p", "text");
    human.dir = "auto";
    const answers = el("div", "cards", el("section", "card human", el("h4", "", "human answer"), whole(human, row[ROW.real])));
    source().models.forEach((_, model) => answers.append(card(row, model)));
    detail.replaceChildren(title, prompt, answers);
  };
  const say = () => {
    const all = source().rows.length;
    const n = state.shown.length.toLocaleString("en");
    $("status").textContent = n + " of " + all.toLocaleString("en") + (all < source().all ? " sampled rows (" + source().all.toLocaleString("en") + " in the store)" : " rows");
  };
  const address = () => {
    const row = state.shown[state.at];
    if (!row) return;
    const words = new URLSearchParams({ pair: row[ROW.id], source: source().id });
    try { history.replaceState(null, "", "#" + words); } catch { /* a page without an address */ }
  };

  const update = (keep) => {
    choices();
    const row = keep ? state.shown[state.at] : null;
    state.shown = arrange();
    const found = row ? state.shown.indexOf(row) : -1;
    state.at = found < 0 ? 0 : found;
    state.page = Math.floor(state.at / PAGE);
    drawList();
    drawDetail();
    say();
  };
  const show = (at, focus) => {
    if (at < 0 || at >= state.shown.length) return;
    state.at = at;
    const page = Math.floor(at / PAGE);
    if (page !== state.page) { state.page = page; drawList(); }
    $("list").querySelectorAll("button").forEach((button) => {
      const current = Number(button.dataset.at) === at;
      if (current) button.setAttribute("aria-current", "true"); else button.removeAttribute("aria-current");
      if (current) {
        if (focus) button.focus({ preventScroll: true });
        const list = $("list"), top = button.offsetTop - list.offsetTop;
        if (top < list.scrollTop) list.scrollTop = top;
        if (top + button.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = top + button.offsetHeight - list.clientHeight;
      }
    });
    drawDetail();
    address();
  };
  const turn = (by) => { state.page += by; drawList(); show(state.page * PAGE, true); };

  // ---- what people do
  $("list").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) show(Number(button.dataset.at), true);
  });
  for (const id of ["source", "decoding", "model", "outcome", "change", "finish", "sort"]) {
    $(id).addEventListener("change", () => {
      const value = $(id).value;
      state[id] = ["source", "decoding", "model"].includes(id) ? Number(value) : value;
      if (id === "source") {
        Object.assign(state, { decoding: 0, model: lastRound(source()), outcome: "any", change: "any", finish: "any", sort: "order" });
      }
      update(id === "decoding" || id === "model");
    });
  }
  let waiting = 0;
  $("q").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { state.q = $("q").value; update(true); }, 120);
  });
  $("tools").addEventListener("submit", (event) => event.preventDefault());
  $("clear").addEventListener("click", () => {
    Object.assign(state, { outcome: "any", change: "any", finish: "any", sort: "order", q: "" });
    $("q").value = "";
    update(true);
  });
  $("prev").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  $("help-open").addEventListener("click", () => $("help").showModal());

  addEventListener("keydown", (event) => {
    if (!$("keys").checked || event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    const target = event.target instanceof Element ? event.target : document.body;
    if (event.key === "Escape" && target.id === "q") { target.blur(); show(state.at, true); return; }
    if (target.closest("input, select, textarea")) return;
    const inList = target.closest("#list");
    const down = event.key === "j" || (inList && event.key === "ArrowDown");
    const up = event.key === "k" || (inList && event.key === "ArrowUp");
    if (down) show(state.at + 1, true);
    else if (up) show(state.at - 1, true);
    else if (event.key === "n" && !$("next").disabled) turn(1);
    else if (event.key === "p" && !$("prev").disabled) turn(-1);
    else if (event.key === "d" && source().decodings.length > 1) { state.decoding = (state.decoding + 1) % source().decodings.length; update(true); }
    else if (event.key === "/") { $("q").focus(); box.scrollIntoView({ block: "start" }); }
    else if (event.key === "?") $("help").showModal();
    else return;
    event.preventDefault();
  });

  // ---- addresses: #pair=ROW&source=ID, or a source with filters
  const follow = () => {
    const words = new URLSearchParams(location.hash.slice(1));
    if (!words.has("source") && !words.has("pair")) { reveal(); return; }
    const wanted = sources.findIndex((one) => one.id === words.get("source"));
    if (wanted >= 0 && wanted !== state.source) Object.assign(state, { source: wanted, decoding: 0, model: lastRound(sources[wanted]) });
    if (words.has("pair")) {
      const already = state.shown.findIndex((row) => row[ROW.id] === words.get("pair"));
      if (wanted < 0 || already < 0) {
        Object.assign(state, { outcome: "any", change: "any", finish: "any", sort: "order", q: "" });
        $("q").value = "";
        update(false);
      }
      show(state.shown.findIndex((row) => row[ROW.id] === words.get("pair")), false);
    } else {
      Object.assign(state, { outcome: words.get("outcome") || "any", change: "any", finish: "any", sort: "order", q: "", page: 0 });
      $("q").value = "";
      for (const key of ["model", "decoding"]) if (words.has(key)) state[key] = Number(words.get(key)) || 0;
      update(false);
    }
    box.scrollIntoView({ block: "start" });
  };
  state.model = lastRound(source());
  box.hidden = false;
  update(false);
  addEventListener("hashchange", follow);
  follow();
})();
