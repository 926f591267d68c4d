// What a page does with scripts: it sorts and filters its table, copies lines, and draws its pictures.
// All data is in one JSON block, and reaches the page as text alone, never as HTML.
(() => {
  "use strict";
  const page = document.documentElement;
  page.classList.add("scripted");
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];

  function make(tag, text = "", attributes = {}) {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  // Lines to copy

  function offerCopies() {
    for (const line of all("[data-copy]")) {
      const button = make("button", "Copy", { type: "button" });
      button.addEventListener("click", async () => {
        button.textContent = (await copy(line.querySelector("code").textContent)) ? "Copied" : "Select it";
        setTimeout(() => { button.textContent = "Copy"; }, 1600);
      });
      line.append(button);
    }
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Without a clipboard of its own, a browser still copies a selection.
      const area = make("textarea", "", { "aria-hidden": "true", readonly: "" });
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  }

  // The table of jobs

  function animateTable() {
    const table = document.getElementById("table");
    if (!table) return;
    const heads = all("thead th", table);
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const find = document.getElementById("filter");
    const boxes = all("#statuses input");
    const count = document.getElementById("count");

    function filter() {
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      const statuses = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
      let shown = 0;
      rows.forEach((row, at) => {
        row.hidden = !statuses.has(row.dataset.status) || !words.every((word) => texts[at].includes(word));
        shown += row.hidden ? 0 : 1;
      });
      const total = `${rows.length} job${rows.length === 1 ? "" : "s"}`;
      count.textContent = shown === rows.length ? total : `${shown} of ${total}`;
    }

    function value(row, column) {
      const cell = row.cells[column];
      if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
      return cell.textContent === "" ? null : cell.textContent;
    }

    function sort(column) {
      const head = heads[column];
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = rows.map((row, at) => ({ row, at, key: value(row, column) }));
      keyed.sort((one, two) => {
        if (one.key === null || two.key === null) return (one.key === null) - (two.key === null) || one.at - two.at;
        const numbers = typeof one.key === "number" && typeof two.key === "number";
        const order = numbers ? one.key - two.key : String(one.key).localeCompare(String(two.key), "en", { numeric: true });
        return (down ? -order : order) || one.at - two.at;
      });
      body.append(...keyed.map((each) => each.row));
    }

    function show(column, shown) {
      heads[column].hidden = !shown;
      for (const row of rows) row.cells[column].hidden = !shown;
    }

    heads.forEach((head, column) => {
      const button = make("button", head.textContent, { type: "button" });
      button.addEventListener("click", () => sort(column));
      head.replaceChildren(button);
    });
    for (const box of all("#columns input")) {
      if (!box.checked) show(Number(box.value), false);
      box.addEventListener("change", () => show(Number(box.value), box.checked));
    }
    find.addEventListener("input", filter);
    for (const box of boxes) box.addEventListener("change", filter);
    const menu = document.getElementById("columns");
    document.addEventListener("click", (event) => { if (!menu.contains(event.target)) menu.open = false; });
    menu.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { menu.open = false; menu.querySelector("summary").focus(); }
    });
    filter();
  }

  function aimAt(job) {
    const row = document.getElementById(`job-${job}`);
    if (!row || row.hidden) return;
    for (const other of all("tr.aimed")) other.classList.remove("aimed");
    row.classList.add("aimed");
    row.scrollIntoView({ block: "center" });
  }

  // Links inside the page work under any name of the file.
  function stayInside() {
    for (const link of all("a[data-to]")) {
      link.addEventListener("click", (event) => {
        const target = document.getElementById(link.dataset.to);
        if (!target) return;
        event.preventDefault();
        target.scrollIntoView();
      });
    }
  }

  // Numbers and text

  const missing = (value) => value === null || value === undefined;

  function figure(value) {
    if (missing(value)) return "";
    if (typeof value !== "number") return String(value);
    if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en");
    const size = Math.abs(value);
    return size !== 0 && (size < 1e-4 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  }

  const seconds = (value) => (missing(value) ? "" : value < 0.1 && value > 0 ? `${figure(value * 1000)} ms` : `${value.toFixed(2)} s`);

  function bytes(value) {
    if (missing(value)) return "";
    const units = ["B", "kB", "MB", "GB", "TB"];
    let at = 0;
    while (at < units.length - 1 && Math.abs(value) >= 1000) { value /= 1000; at += 1; }
    return `${at ? Number(value.toFixed(value < 10 ? 1 : 0)) : value} ${units[at]}`;
  }

  const percent = (value) => (missing(value) ? "" : `${Number((value * 100).toPrecision(3))} %`);

  // "{name|text}" is a notation of the charts' rich text; a space without width keeps it text.
  const plain = (text) => String(text).replace(/\{/g, "{\u200b");
  const cut = (text, most = 60) => (text.length > most ? `${text.slice(0, most - 1)}\u2026` : text);
  const lines = (...texts) => texts.filter(Boolean).map((text) => plain(cut(String(text), 110))).join("\n");
  const named = (number, label) => `job ${number}${label ? `: ${label}` : ""}`;

  // Colors and parts that all pictures share

  const color = (name) => getComputedStyle(page).getPropertyValue(`--${name}`).trim();
  const font = () => getComputedStyle(document.body).fontFamily;
  const palette = () => Array.from({ length: 8 }, (_, at) => color(`series-${at + 1}`));

  function axis(more) {
    return {
      axisLine: { lineStyle: { color: color("edge") } },
      axisTick: { lineStyle: { color: color("edge") } },
      axisLabel: { color: color("soft"), hideOverlap: true },
      nameTextStyle: { color: color("soft") },
      splitLine: { lineStyle: { color: color("rule") } },
      ...more,
    };
  }

  function base(more) {
    return {
      animation: false,
      color: palette(),
      textStyle: { color: color("ink"), fontFamily: font(), fontSize: 12 },
      grid: { left: 8, right: 12, top: 16, bottom: 8, outerBoundsMode: "same", outerBoundsContain: "all" },
      ...more,
      tooltip: {
        renderMode: "richText",
        confine: true,
        backgroundColor: color("sheet"),
        borderColor: color("edge"),
        textStyle: { color: color("ink"), fontSize: 12 },
        ...more.tooltip,
      },
    };
  }

  function legend(names) {
    if (names.length < 2) return {};
    return {
      legend: {
        type: "scroll", top: 0, left: 0, data: names, icon: "roundRect", itemWidth: 14, itemHeight: 10, padding: [4, 0],
        textStyle: { color: color("ink"), lineHeight: 18 }, pageTextStyle: { color: color("soft") },
        pageIconColor: color("link"), pageIconInactiveColor: color("rule"),
        formatter: (name) => cut(name, 48),
      },
      grid: { left: 8, right: 12, top: 36, bottom: 8, outerBoundsMode: "same", outerBoundsContain: "all" },
    };
  }

  // The pictures: what is drawn, and the same as a table

  const MARKS = ["circle", "rect", "triangle", "diamond"];

  function metric(shown) {
    const over = shown.over === "step";
    const names = shown.series.map((line) => line.name || shown.name);
    const best = (point) => point[3] === shown.best;
    const about = (point, line) =>
      lines(`${shown.name} ${figure(point[1])}${missing(point[2]) ? "" : ` \u00b1 ${figure(point[2])}`}`,
        over ? `step ${figure(point[0])}` : point[0], line.name, `job ${point[3]}`);
    const series = shown.series.map((line, at) => ({
      type: over ? "line" : "bar",
      name: names[at],
      data: line.points.map((point) => ({
        value: over ? [point[0], point[1]] : point[1],
        job: point[3],
        symbolSize: best(point) ? 12 : shown.series.length * line.points.length > 400 ? 3 : 6,
        itemStyle: best(point) ? { borderColor: color("ink"), borderWidth: 2 } : undefined,
      })),
      symbol: MARKS[at % MARKS.length],
      lineStyle: { width: 1.8, type: at >= 8 ? "dashed" : "solid" },
      barMaxWidth: 36,
    }));
    const bars = over ? [] : shown.series[0].points.map((point) => String(point[3]));
    const option = base({
      ...legend(names),
      series,
      xAxis: over
        ? axis({ type: "value", scale: true, name: "step", nameLocation: "middle", nameGap: 28, splitLine: { show: false } })
        : axis({ type: "category", data: bars, name: "job", nameLocation: "middle", nameGap: 28 }),
      yAxis: axis({ type: "value", scale: over, axisLabel: { color: color("soft"), formatter: figure } }),
      tooltip: {
        trigger: "item",
        formatter: (at) => about(shown.series[at.seriesIndex].points[at.dataIndex], shown.series[at.seriesIndex]),
      },
    });
    const rows = shown.series.flatMap((line) =>
      line.points.map((point) => [point[3], over ? line.name : point[0], ...(over ? [point[0]] : []), point[1], point[2]]));
    return { option, heads: ["job", "values", ...(over ? ["step"] : []), shown.name, "standard error"], rows };
  }

  const STEPS = ["load", "forward", "evaluate"];

  function costs(shown, names, columns, written) {
    const series = names.map((name, at) => ({
      type: "bar", stack: "all", name, barMaxWidth: 36, data: columns[at].map((value, job) => ({ value, job: shown.jobs[job] })),
    }));
    return base({
      ...legend(names),
      series,
      xAxis: axis({ type: "category", data: shown.jobs.map(String), name: "job", nameLocation: "middle", nameGap: 28 }),
      yAxis: axis({ type: "value", axisLabel: { color: color("soft"), formatter: (value) => (written === bytes ? bytes(value) : `${figure(value)} s`) } }),
      tooltip: {
        trigger: "axis",
        axisPointer: { type: "shadow" },
        formatter: (bars) => lines(named(shown.jobs[bars[0].dataIndex], shown.labels[bars[0].dataIndex]),
          ...bars.map((bar) => (missing(bar.value) ? "" : `${bar.seriesName} ${written(bar.value)}`))),
      },
    });
  }

  function times(shown) {
    const rest = shown.total.map((total, at) =>
      missing(total) ? null : Math.max(0, total - STEPS.reduce((sum, step) => sum + (shown[step][at] ?? 0), 0)));
    const used = STEPS.filter((step) => shown[step].some((value) => value));
    const option = costs(shown, [...used, "other"], [...used.map((step) => shown[step]), rest], seconds);
    const rows = shown.jobs.map((job, at) => [job, shown.labels[at], ...used.map((step) => shown[step][at]), shown.total[at]]);
    return { option, heads: ["job", "values", ...used, "in all"], rows };
  }

  function memory(shown) {
    const option = costs(shown, ["peak memory"], [shown.bytes], bytes);
    return { option, heads: ["job", "values", "bytes"], rows: shown.jobs.map((job, at) => [job, shown.labels[at], shown.bytes[at]]) };
  }

  function steps(shown) {
    const option = base({
      series: [{ type: "bar", data: shown.seconds, barMaxWidth: 22, label: { show: true, position: "right", color: color("ink"), formatter: (bar) => seconds(bar.value) } }],
      grid: { left: 8, right: 70, top: 8, bottom: 8, outerBoundsMode: "same", outerBoundsContain: "all" },
      xAxis: axis({ type: "value", axisLabel: { color: color("soft"), formatter: seconds, hideOverlap: true } }),
      yAxis: axis({ type: "category", data: shown.steps, inverse: true }),
      tooltip: { trigger: "item", formatter: (bar) => lines(`${bar.name} ${seconds(bar.value)}`) },
    });
    return { option, heads: ["step", "seconds"], rows: shown.steps.map((step, at) => [step, shown.seconds[at]]), height: 40 + 28 * shown.steps.length };
  }

  // Squares whose color is a number's order of magnitude; zero and "not finite" have colors of their own.
  function heat(cells, columns, rows, written, about, names) {
    const positive = cells.map((cell) => cell[2]).filter((value) => typeof value === "number" && value > 0);
    const low = positive.length ? Math.log10(Math.min(...positive)) : -1;
    const high = positive.length ? Math.log10(Math.max(...positive)) : 0;
    const range = high - low < 1e-9 ? [low - 1, high] : [low, high];
    const squares = cells.map(([x, y, value]) => {
      const odd = value === "inf" ? color("bad") : value === 0 ? color("paper") : undefined;
      const at = value === "inf" || value === 0 ? range[0] : Math.log10(value);
      return { value: [x, y, at], real: value, itemStyle: odd ? { color: odd } : undefined, visualMap: odd ? false : undefined };
    });
    return base({
      grid: { left: 8, right: 12, top: 40, bottom: 8, outerBoundsMode: "same", outerBoundsContain: "all" },
      series: [{
        type: "heatmap", data: squares, progressive: false, progressiveThreshold: Infinity,
        itemStyle: { borderColor: color("rule"), borderWidth: columns.length > 60 ? 0 : 1 },
        emphasis: { itemStyle: { borderColor: color("ink"), borderWidth: 1 } },
      }],
      visualMap: {
        type: "continuous", min: range[0], max: range[1], calculable: false, orient: "horizontal", left: 0, top: 0,
        itemWidth: 12, itemHeight: 140, text: [written(10 ** range[1]), written(10 ** range[0])],
        textStyle: { color: color("soft") }, inRange: { color: [color("low"), color("high")] },
      },
      xAxis: axis({ type: "category", data: columns, name: names[0], nameLocation: "middle", nameGap: 26, splitArea: { show: false } }),
      yAxis: axis({ type: "category", data: rows, inverse: true, name: names[1] ? "" : undefined }),
      tooltip: { trigger: "item", formatter: (square) => about(square.data.value, square.data.real) },
    });
  }

  function matrix(shown) {
    const cells = [];
    shown.cells.forEach((row, y) => row.forEach((value, x) => { cells.push([x, y, value], [y, x, value]); }));
    shown.jobs.forEach((_, at) => cells.push([at, at, 0]));
    const names = shown.jobs.map(String);
    const written = (value) => (value === "inf" ? "not finite" : value === 0 ? "equal" : figure(value));
    const about = ([x, y], value) => lines(`jobs ${shown.jobs[y]} and ${shown.jobs[x]}`, written(value));
    const option = heat(cells, names, names, figure, about, ["job", ""]);
    const rows = shown.jobs.map((job, y) => [job, ...shown.jobs.map((_, x) => {
      return x === y ? 0 : figure(x < y ? shown.cells[y][x] : shown.cells[x][y]);
    })]);
    return { option, heads: ["job", ...names], rows, square: shown.jobs.length };
  }

  function drift(shown) {
    const cells = shown.values.flatMap((row, y) => row.map((value, x) => [x, y, value]).filter((cell) => !missing(cell[2])));
    const names = shown.jobs.map(String);
    const about = ([x, y], value) => lines(shown.modules[y], named(shown.jobs[x], shown.labels[x]), value === "inf" ? "not finite" : percent(value));
    const option = heat(cells, names, shown.modules, percent, about, ["job", ""]);
    option.yAxis.axisLabel = { ...option.yAxis.axisLabel, width: 180, overflow: "truncate" };
    const rows = shown.modules.map((module, y) => [module, ...shown.values[y].map((value) => (value === "inf" ? value : percent(value)))]);
    return { option, heads: ["module", ...names], rows, height: 90 + 18 * shown.modules.length };
  }

  // "layers.{0..11}.attn" has three segments.
  const segments = (name) => name.match(/(?:\{[^}]*\}|[^.])+/g) ?? [name];

  function coverage(shown, box) {
    const select = choice(shown, box);
    const map = shown.maps[Number(select?.value ?? 0)];
    const outcome = (counts) => ["mismatched", "missing", "initialised"].find((name) => counts[shown.outcomes.indexOf(name)]) ?? "loaded";
    const root = { below: new Map() };
    for (const [module, count, parameters, counts] of map.rows) {
      if (!parameters) continue;
      let node = root;
      for (const segment of segments(module)) {
        if (!node.below.has(segment)) node.below.set(segment, { below: new Map() });
        node = node.below.get(segment);
      }
      node.row = { module, count, parameters, counts };
    }
    const leaf = (name, row) => ({
      name, value: row.parameters, row,
      itemStyle: { color: color(outcome(row.counts)) },
      label: { color: color(`${outcome(row.counts)}-ink`) },
      outcome: outcome(row.counts),
    });
    const nodes = (node) => [...node.below].map(([name, below]) => {
      if (!below.below.size) return leaf(name, below.row);
      const own = below.row ? [leaf("(own)", below.row)] : [];
      let [label, inner] = [name, below];
      while (inner.below.size === 1 && !inner.row) {
        const [[next, only]] = inner.below;
        label += `.${next}`;
        if (!only.below.size) return leaf(label, only.row);
        inner = only;
      }
      return { name: label, children: [...(inner === below ? own : inner.row ? [leaf("(own)", inner.row)] : []), ...nodes(inner)] };
    });
    const inside = { show: true, height: 20, color: color("soft"), backgroundColor: color("sheet"), padding: [0, 4], fontSize: 11 };
    const option = base({
      series: [{
        type: "treemap", data: nodes(root), roam: false, nodeClick: false, breadcrumb: { show: false },
        left: 0, right: 0, top: 0, bottom: 0, visibleMin: 30, squareRatio: 1,
        label: {
          show: true, fontSize: 11, overflow: "truncate",
          formatter: (node) => plain(node.data.outcome === "loaded" ? node.name : `${node.name}\n${node.data.outcome}`),
        },
        upperLabel: { ...inside, formatter: (node) => plain(node.name) },
        itemStyle: { borderColor: color("sheet"), borderWidth: 1, gapWidth: 1 },
        levels: [
          { itemStyle: { borderColor: color("sheet"), borderWidth: 0, gapWidth: 3 }, upperLabel: { show: false } },
          { itemStyle: { borderColor: color("rule"), borderWidth: 1, gapWidth: 1 } },
        ],
      }],
      tooltip: {
        trigger: "item",
        formatter: (node) => {
          const row = node.data?.row;
          if (!row) return lines(node.name, `${figure(node.value)} parameters`);
          return lines(row.module, `${figure(row.parameters)} parameters${row.count > 1 ? ` in ${figure(row.count)} modules` : ""}`,
            ...shown.outcomes.map((name, at) => (row.counts[at] ? `${figure(row.counts[at])} ${name}` : "")));
        },
      },
    });
    const rows = map.rows.map(([module, count, parameters, counts]) => [module, count, parameters, ...counts]);
    return { option, heads: ["module", "modules", "parameters", ...shown.outcomes], rows, height: map.rows.length < 4 ? 160 : 0 };
  }

  // The job whose map is shown, and what the colors mean; made once.
  function choice(shown, box) {
    const figureBox = box.closest("figure");
    const known = figureBox.querySelector(".choice");
    if (known) return known.querySelector("select");
    const line = make("div", "", { class: "choice" });
    let select = null;
    if (shown.maps.length > 1) {
      const label = make("label", "Jobs ");
      select = make("select");
      shown.maps.forEach((map, at) => {
        const [[number, values]] = map.jobs;
        const more = map.jobs.length - 1;
        const text = more ? `${map.jobs.slice(0, 6).map(([job]) => job).join(", ")}${more > 5 ? ` and ${more - 5} more` : ""}` : `${number}${values ? `: ${values}` : ""}`;
        select.append(make("option", cut(text, 90), { value: at }));
      });
      label.append(select);
      line.append(label);
      select.addEventListener("change", () => draw(box));
    }
    const key = make("div", "", { class: "legend" });
    key.append(...shown.outcomes.map((name) => make("span", name, { class: name })));
    const about = make("p", "", { class: "about" });
    line.append(key);
    box.before(line, about);
    return select;
  }

  const DRAWN = { metric, seconds: times, memory, steps, matrix, drift, coverage };
  const drawn = new Map();

  function draw(box) {
    const shown = data[box.dataset.picture];
    if (!shown) return;
    const made = DRAWN[shown.kind](shown, box);
    if (made.height) box.style.height = `${made.height}px`;
    if (made.square) {
      const side = Math.min(box.parentElement.clientWidth, Math.max(280, 110 + 22 * made.square), 860);
      box.style.width = `${side}px`;
      box.style.height = `${side}px`;
    }
    if (shown.kind === "coverage") {
      const select = box.closest("figure").querySelector("select");
      const about = box.closest("figure").querySelector(".about");
      about.textContent = shown.maps[Number(select?.value ?? 0)].about;
      box.setAttribute("aria-label", `Coverage: ${about.textContent}`);
    }
    drawn.get(box)?.dispose();
    const chart = charts.init(box, null, { renderer: "canvas" });
    drawn.set(box, chart);
    chart.setOption(made.option);
    chart.on("click", (event) => { if (!missing(event.data?.job)) aimAt(event.data.job); });
    const numbers = box.parentElement.querySelector(".numbers");
    numbers.ontoggle = () => tabulate(numbers, made);
    tabulate(numbers, made);
  }

  function tabulate(numbers, made) {
    if (!numbers.open) return;
    const table = make("table");
    const head = make("tr");
    head.append(...made.heads.map((text) => make("th", text, { scope: "col" })));
    const top = make("thead");
    top.append(head);
    const body = make("tbody");
    for (const row of made.rows) {
      const line = make("tr");
      line.append(...row.map((value, at) => {
        const cell = make(at ? "td" : "th", figure(value));
        if (!at) cell.setAttribute("scope", "row");
        if (typeof value === "number") cell.className = "number";
        return cell;
      }));
      body.append(line);
    }
    table.append(top, body);
    numbers.querySelector(".scroll").replaceChildren(table);
  }

  const boxes = all("[data-picture]");
  const drawAll = () => boxes.forEach(draw);

  function follow() {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
    let width = page.clientWidth;
    addEventListener("resize", () => {
      if (page.clientWidth === width) return;
      width = page.clientWidth;
      drawAll();
    });
  }

  offerCopies();
  animateTable();
  stayInside();
  drawAll();
  follow();
  page.dataset.ready = "true";
})();
