"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const read = (id) => JSON.parse(document.getElementById(id).textContent);

  // Plots, drawn when they come near, in the colours of the page.
  const specs = read("plots");
  const drawn = new Set();
  const named = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const painted = (value, key) => {
    if (Array.isArray(value)) return value.map((one) => painted(one, key));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, painted(one, name)]));
    }
    return /color$/i.test(key) && typeof value === "string" && value.startsWith("--") ? named(value) : value;
  };
  const together = (base, more) => {
    for (const [key, value] of Object.entries(more)) {
      const both = value && base[key] && typeof value === "object" && !Array.isArray(value);
      base[key] = both ? together({ ...base[key] }, value) : value;
    }
    return base;
  };
  const style = (narrow) => {
    const [ink, grid, page, line] = ["--ink", "--grid", "--page", "--line"].map(named);
    const axis = { gridcolor: grid, linecolor: line, zerolinecolor: line, automargin: true, ticks: "outside", tickcolor: line, ticklen: 3 };
    return {
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12, color: ink },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: narrow ? 44 : 56, r: 12, t: 8, b: 44 },
      xaxis: { ...axis, zeroline: false, title: { standoff: 6 } },
      yaxis: { ...axis, title: { standoff: 6 } },
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
      hovermode: "closest",
      hoverlabel: { bgcolor: page, bordercolor: line, font: { color: ink, size: 12 }, namelength: -1, align: "left" },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    };
  };
  const draw = (div) => {
    const spec = painted(specs[div.id], "");
    const narrow = div.clientWidth < 480;
    if (narrow) {
      for (const trace of spec.data) {
        if (trace.colorbar) {
          Object.assign(trace.colorbar, { orientation: "h", y: 1.02, yanchor: "bottom", len: 0.9, thickness: 9 });
          trace.colorbar.title.side = "top";
        }
      }
      if (spec.data.some((trace) => trace.colorbar)) spec.layout.showlegend = false;
    } else if (spec.data.some((trace) => trace.colorbar)) {
      spec.layout.margin = { ...spec.layout.margin, r: 70 };
    }
    drawn.add(div);
    return Plotly.react(div, spec.data, together(style(narrow), spec.layout), {
      responsive: true,
      displaylogo: false,
      displayModeBar: matchMedia("(pointer: coarse)").matches || narrow ? false : "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    });
  };
  // One at a time, so that the page can be scrolled meanwhile.
  const waiting = [];
  const next = () => {
    draw(waiting[0]);
    waiting.shift();
    if (waiting.length) setTimeout(next, 20);
  };
  const near = new IntersectionObserver(
    (seen) => seen.filter((one) => one.isIntersecting).forEach((one) => {
      near.unobserve(one.target);
      if (waiting.push(one.target) === 1) setTimeout(next, 20);
    }),
    { rootMargin: "900px" },
  );
  document.querySelectorAll(".canvas").forEach((div) => near.observe(div));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(draw));

  document.querySelectorAll(".static.with-plots").forEach((figure) => {
    const button = document.createElement("button");
    const say = () => { button.textContent = figure.classList.contains("shown") ? "Hide the static figure" : "Show the static figure"; };
    button.type = "button";
    button.className = "figure-switch";
    button.addEventListener("click", () => { figure.classList.toggle("shown"); say(); });
    say();
    figure.before(button);
  });

  // Tables: sort by a column, numbers by their value, what is missing last.
  const place = (cell) => (cell.dataset.v === undefined ? null : Number(cell.dataset.v));
  const compare = (at, up) => (one, other) => {
    const [a, b] = [one.cells[at], other.cells[at]];
    if (a.classList.contains("text")) return up * a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
    const [x, y] = [place(a), place(b)];
    return x === null || y === null ? (x === null) - (y === null) : up * (x - y);
  };
  document.querySelectorAll(".table table").forEach((table) => {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, at) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up > 0 ? "ascending" : "descending");
        const body = table.tBodies[0];
        body.append(...[...body.rows].sort(compare(at, up)));
      });
    });
  });

  // Copying, for a spreadsheet, which shall not take text for a formula; and the CSV of a table.
  const number = /^[-+]?[\d.,]+( to [-+]?[\d.,]+)?$/;
  const harmless = (text) => (/^[=+\-@]/.test(text) && !number.test(text) ? `'${text}` : text);
  const lines = (table) => [...table.rows].map((row) => [...row.cells].map((cell) => harmless(cell.textContent.trim())).join("\t")).join("\n");
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };
  const told = (button, text) => {
    const before = button.textContent;
    button.textContent = text;
    setTimeout(() => { button.textContent = before; }, 1200);
  };
  document.querySelectorAll("[data-copy]").forEach((button) => button.addEventListener("click", async () => {
    const around = button.closest(".table, .command");
    const table = around.querySelector("table");
    await copy(table ? lines(table) : around.querySelector("pre").textContent);
    told(button, "Copied");
  }));
  const csv = read("tables");
  document.querySelectorAll("[data-csv]").forEach((button) => button.addEventListener("click", async () => {
    const { name, gzip } = csv[button.dataset.csv];
    const packed = new Blob([Uint8Array.from(atob(gzip), (letter) => letter.charCodeAt(0))]);
    const bytes = await new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).blob();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([bytes], { type: "text/csv" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }));
})();
