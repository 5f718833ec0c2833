// What moves on the page: films that play together, and the slider between two pictures. Everything else works without.
"use strict";
const root = document.documentElement;
root.classList.add("live");

/** Films of one prompt behind one button and one range: each is at the same share of its own length. */
function together(scope) {
  const bar = scope.querySelector(".films");
  let films = [...scope.querySelectorAll("video")];
  if (!bar || !films.length) return;
  const [button, range] = [bar.querySelector("button"), bar.querySelector("input")];
  let playing = false;
  let loaded = null;
  bar.hidden = false;
  for (const film of films) film.controls = false;

  /** Resolves once every film that can be played knows its length. */
  const ready = () => loaded ??= Promise.all(films.map((film) => new Promise((done) => {
    film.addEventListener("loadeddata", () => done(film), { once: true });
    film.addEventListener("error", () => done(null), { once: true });
    film.preload = "auto";
    film.load();
  }))).then((all) => { films = all.filter(Boolean); return films.length > 0; });

  const longest = () => films.reduce((a, b) => (b.duration > a.duration ? b : a));
  const place = (share) => { for (const film of films) film.currentTime = share * film.duration; };
  const say = () => { button.textContent = playing ? "Pause" : "Play all"; };

  function pause() {
    playing = false;
    for (const film of films) film.pause();
    say();
  }

  function follow() {
    if (!playing) return;
    const lead = longest();
    const share = lead.currentTime / lead.duration;
    range.value = Math.round(1000 * share);
    for (const film of films) {
      if (Math.abs(film.currentTime / film.duration - share) > 0.05) film.currentTime = share * film.duration;
    }
    if (lead.ended) pause();
    else requestAnimationFrame(follow);
  }

  async function play() {
    playing = true;
    say();
    if (!await ready() || !playing) return pause();
    scope.classList.add("rolling");
    const length = longest().duration;
    const from = Number(range.value) >= 1000 ? 0 : Number(range.value) / 1000;
    place(from);
    for (const film of films) film.playbackRate = Math.max(0.0625, film.duration / length);
    await Promise.allSettled(films.map((film) => film.play()));
    requestAnimationFrame(follow);
  }

  button.addEventListener("click", () => (playing ? pause() : play()));
  range.addEventListener("input", async () => {
    if (!await ready()) return;
    scope.classList.add("rolling");
    place(Number(range.value) / 1000);
  });
}

/** The slider: two pictures that stand on the page anyway, one above the other. */
function slide(section) {
  const [row, left, right, cut, stage] =
    ["slide-row", "slide-left", "slide-right", "slide-cut", "stage"].map((id) => document.getElementById(id));
  if (!row.options.length) return;
  section.hidden = false;
  row.parentElement.hidden = row.options.length < 2;
  const find = (variant) =>
    document.querySelector(`img[data-row="${Number(row.value)}"][data-variant="${Number(variant)}"]`);

  /** Offer what this row has; what was chosen stays where it can, and the two sides differ at first. */
  function offer() {
    const there = [...left.options].filter((option) => find(option.value)).map((option) => option.index);
    for (const [choice, fallback] of [[left, there[0]], [right, there.find((place) => place !== left.selectedIndex)]]) {
      for (const option of choice.options) option.hidden = option.disabled = !there.includes(option.index);
      if (choice.selectedOptions[0].disabled || (choice === right && choice.selectedIndex === left.selectedIndex)) {
        choice.selectedIndex = fallback;
      }
    }
    show();
  }
  function show() {
    for (const [choice, id] of [[left, "stage-left"], [right, "stage-right"]]) {
      const [picture, target] = [find(choice.value), document.getElementById(id)];
      [target.src, target.alt] = [picture.src, picture.alt];
    }
    move();
  }
  function move() {
    stage.style.setProperty("--cut", `${Number(cut.value)}%`);
    const [first, second] = [left, right].map((choice) => choice.selectedOptions[0].textContent);
    document.getElementById("name-left").textContent = first;
    document.getElementById("name-right").textContent = second;
    cut.setAttribute("aria-valuetext", `${cut.value} % ${first}, ${100 - cut.value} % ${second}`);
  }
  row.addEventListener("change", offer);
  for (const choice of [left, right]) choice.addEventListener("change", show);
  cut.addEventListener("input", move);
  offer();
}

for (const scope of document.querySelectorAll("[data-films]")) together(scope);
const section = document.getElementById("before-after");
if (section) slide(section);
addEventListener("beforeprint", () => { for (const each of document.querySelectorAll("details")) each.open = true; });
