// What a screen does beyond its HTML: counts that come later, sliders that show at once, live plots.
const numbers = new Intl.NumberFormat("en");

async function fetched(address) {
  const answer = await fetch(address, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`${answer.status}`);
  return answer.json();
}

for (const output of document.querySelectorAll("[data-count]")) {
  fetched(output.dataset.count)
    .then(({ count }) => { output.textContent = `${numbers.format(count)} in all`; })
    .catch(() => { output.textContent = ""; });
}

for (const form of document.querySelectorAll("form[data-submit]")) {
  for (const slider of form.querySelectorAll("input[type=range]")) {
    slider.addEventListener("input", () => {
      const moment = new Date(Number(slider.value) * 1000);
      slider.closest("p").querySelector("output").textContent = moment.toISOString().slice(0, 19).replace("T", " ");
    });
  }
}

const live = document.querySelector("[data-live]");
if (live) {
  const history = {};
  let before = null;
  const draw = (name, value) => {
    const points = (history[name] ??= []);
    points.push(value);
    if (points.length > 120) points.shift();
    const most = Math.max(...points, 1e-9);
    const line = points.map((each, at) => `${(at * 300) / 119},${58 - (each / most) * 56}`).join(" ");
    live.querySelector(`[data-plot=${name}] polyline`).setAttribute("points", line);
    live.querySelector(`[data-value=${name}]`).textContent = numbers.format(Math.round(value * 100) / 100);
  };
  const look = async () => {
    const began = performance.now();
    try {
      const { stats } = await fetched(live.dataset.live);
      const moment = performance.now() / 1000;
      if (before) {
        const more = (group, name) => stats[group][name] - before.stats[group][name];
        const rate = (group, name) => more(group, name) / (moment - before.moment);
        const batches = more("embedding", "batches");
        draw("writes", rate("store", "writes"));
        draw("texts", rate("embedding", "texts"));
        draw("batch", batches ? more("embedding", "texts") / batches : 0);
        draw("hits", rate("embedding", "cache_hits"));
      }
      draw("wait", (stats.process.timings.wait?.p90 ?? 0) * 1000);
      draw("queue", stats.embedding.waiting_texts);
      draw("memories", stats.store.memories);
      before = { stats, moment };
    } finally {
      // The larger the store, the longer a look takes, and the rarer the looks are.
      if (!document.hidden || before) setTimeout(look, Math.max(1000, 10 * (performance.now() - began)));
    }
  };
  look();
}
