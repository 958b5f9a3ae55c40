// What happens on the page: a file comes in, goes to the server, and the result is shown.

import { Trouble, ask, nameIn, post, postInTurn, sleep } from "./transfer.js";
import { Viewer } from "./viewer.js";

const by = (id) => document.getElementById(id);
const PICTURES = ".png,.jpg,.jpeg,.webp,.bmp,.tif,.tiff,.gif";
const PASSES = {
  none: "one",
  flips: "eight flips and turns: a little better, 8 times slower",
  shifts: "shifted patches: no seams, 2 to 4 times slower",
};

const GONE = 404; // a film that failed, or is not there any more

const viewer = new Viewer();
let model = null;
let file = null;
let work = new AbortController(); // what is under way
let filming = false; // a film is
let downloaded = false; // the film that is done has been
let dropped = Promise.resolve(); // the last film that was to be
const urls = [];

const started = start();

async function start() {
  if (location.search.includes("token=")) history.replaceState(null, "", location.pathname);
  listen();
  try {
    model = await ask("v1/model");
  } catch (error) {
    fail(error);
    return;
  }
  by("model").textContent = `with ${model.model}`;
  by("limits").textContent = takes();
  by("file").accept = model.films ? [PICTURES, "video/*", ...model.film_extensions].join() : PICTURES;
  document.querySelector(".films").hidden = !model.films;
  for (let count = 1; count <= model.stages; count++) {
    const name = count === model.stages ? `all ${count}` : count === 1 ? "1: fastest" : count;
    by("stages").add(new Option(name, count, false, count === model.stages));
  }
  by("stages-label").hidden = model.stages === 1;
  for (const name of model.ensembles) by("ensemble").add(new Option(PASSES[name], name));
  const film = sessionStorage.getItem("film");
  if (film && !file) begin((signal) => follow(film, signal));
}

function takes() {
  const { upload_bytes: bytes, pixels, film_bytes: film, film_frames: frames } = model.limits;
  let text = `PNG, JPEG, WebP, BMP, TIFF, up to ${Number((pixels / 1e6).toPrecision(3))} megapixels and ${megabytes(bytes)}`;
  if (model.films) text += `; films up to ${frames} frames and ${megabytes(film)}`;
  return `${text}.`;
}

function listen() {
  by("file").onchange = (event) => {
    const [chosen] = event.target.files;
    event.target.value = "";
    if (chosen) open(chosen);
  };
  by("options").onsubmit = (event) => {
    event.preventDefault();
    if (file && mayEnd(file)) run();
  };
  by("options").onchange = () => (by("again").hidden = !file);
  by("cancel").onclick = () => work.abort();
  by("film-download").onclick = () => (downloaded = true);
  document.addEventListener("paste", (event) => {
    const [pasted] = event.clipboardData.files;
    if (pasted) open(pasted);
  });
  const drop = by("drop");
  for (const kind of ["dragover", "dragenter"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => event.relatedTarget || drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const [dropped] = event.dataTransfer.files;
    if (dropped) open(dropped);
  });
}

function open(chosen) {
  if (!mayEnd(chosen)) return;
  file = chosen;
  by("drop").classList.add("small");
  by("limits").hidden = true;
  run();
}

function isFilm(file) {
  const name = file.name.toLowerCase();
  return file.type.startsWith("video/") || model?.film_extensions.some((end) => name.endsWith(end));
}

// Whether what there is may make way for another file: a film took long.
function mayEnd(next) {
  if (filming) return confirm("A film is being deblurred. Stop it, and lose what is done of it?");
  if (downloaded || !isFilm(next) || !sessionStorage.getItem("film")) return true;
  return confirm("The film before has not been downloaded. Let it go?");
}

function run() {
  clear();
  begin(async (signal) => {
    await started; // a file may be chosen before the server has told what it takes
    if (!model) throw new Trouble("The server has not told what it takes; load the page again.");
    await (isFilm(file) ? runFilm(signal) : runPicture(signal));
  });
}

// Does something in the place of what is under way.
async function begin(something) {
  work.abort();
  work = new AbortController();
  const { signal } = work;
  try {
    await something(signal);
    if (!signal.aborted) idle();
  } catch (error) {
    if (work.signal === signal) fail(error);
  }
}

function query() {
  return `?stages=${by("stages").value}&ensemble=${by("ensemble").value}`;
}

function check(most) {
  if (!file.size) throw new Trouble(`${file.name} is empty.`);
  if (file.size > most) {
    throw new Trouble(`${file.name} has ${megabytes(file.size)}; this server takes ${megabytes(most)}.`);
  }
}

const megabytes = (bytes) => `${Number((bytes / 1e6).toPrecision(3))} MB`;

async function runPicture(signal) {
  check(model.limits.upload_bytes);
  const shown = await viewer.showBefore(kept(file)).then(() => true, () => false);
  if (!shown) viewer.hide();
  say("Sending the picture", 0);
  const begun = Date.now();
  let ticking = null;
  const told = (share) => {
    say(`Sending the picture: ${Math.round(100 * share)} %`, share);
    if (share === 1) {
      ticking ??= setInterval(() => tell(`Deblurring, ${Math.round((Date.now() - begun) / 1000)} s`), 1000);
      say("Deblurring");
    }
  };
  try {
    const waits = (text) => {
      clearInterval(ticking);
      ticking = null;
      say(text);
    };
    const answer = await postInTurn(`v1/deblur${query()}`, "image", file, { told, waits, signal });
    const url = kept(answer.response);
    note(answer.getResponseHeader("Dmphn-Notes"));
    const link = by("download");
    link.href = url;
    link.download = nameIn(answer, file.name);
    link.hidden = false;
    const both = shown && (await viewer.showAfter(url).then(() => true, () => false));
    if (!both) {
      by("viewer").hidden = false;
      by("frame").hidden = true;
      note("This browser does not show pictures of this kind; the download is ready.");
    }
  } finally {
    clearInterval(ticking);
  }
}

async function runFilm(signal) {
  if (!model.films) throw new Trouble("This server takes pictures, no films.");
  check(model.limits.film_bytes);
  await drop(); // the film before
  // Asked before it is sent: films are large.
  const { films } = await ask("v1/places", { signal });
  if (!films) throw new Trouble("This server holds no more films now; try again in a while.");
  say("Sending the film", 0);
  const told = (share) => say(share === 1 ? "Looking at the film" : `Sending the film: ${Math.round(100 * share)} %`, share);
  const answer = await post(`v1/films${query()}`, "film", file, { told, signal });
  const film = JSON.parse(await answer.response.text());
  sessionStorage.setItem("film", film.id);
  await follow(film.id, signal);
}

// Asks how far a film is until it is done. Who stops it has it dropped.
async function follow(id, signal) {
  filming = true;
  try {
    for (;;) {
      const film = await askPatiently(`v1/films/${id}`, signal);
      if (film.state === "done") return showFilm(film);
      if (film.state === "failed") throw new Trouble(`${film.name}: ${film.detail}.`, GONE);
      say(filmProgress(film), film.frames_total ? film.frames_done / film.frames_total : undefined);
      await sleep(1, signal);
    }
  } catch (error) {
    if (sessionStorage.getItem("film") === id) {
      if (error.name === "AbortError") drop();
      if (error.status === GONE) sessionStorage.removeItem("film");
    }
    throw error;
  } finally {
    filming = false;
  }
}

// Asks again, ever later, while the server cannot be reached or has a fault of its own.
async function askPatiently(address, signal) {
  for (let seconds = 1; ; seconds = Math.min(30, 2 * seconds)) {
    try {
      return await ask(address, { signal });
    } catch (error) {
      if (!(error instanceof Trouble) || (error.status && error.status < 500)) throw error;
      say(`${error.message} Asking again in ${seconds} s.`);
      await sleep(seconds, signal);
    }
  }
}

// Has the server drop this page's film, if there is one. Resolves once it has.
function drop() {
  const id = sessionStorage.getItem("film");
  sessionStorage.removeItem("film");
  if (id) dropped = ask(`v1/films/${id}`, { method: "DELETE" }).catch(() => {});
  return dropped;
}

function filmProgress(film) {
  if (film.state === "queued") return "Waiting for another film";
  let text = `Deblurring frame ${film.frames_done}`;
  if (film.frames_total) text += ` of ${film.frames_total}`;
  if (film.frames_per_second) text += `, ${film.frames_per_second.toPrecision(2)} frames/s`;
  if (film.seconds_left !== null) text += `, ${Math.ceil(film.seconds_left)} s left`;
  return text;
}

function showFilm(film) {
  by("video").src = by("film-download").href = film.result;
  by("film-download").download = film.name;
  downloaded = false;
  by("film").hidden = false;
  film.notes.forEach(note);
  note(`The server keeps this film for ${Math.round(model.limits.keep_seconds / 60)} minutes.`);
  idle();
}

function clear() {
  by("trouble").hidden = by("viewer").hidden = by("film").hidden = true;
  by("download").hidden = by("again").hidden = true;
  by("frame").hidden = false;
  by("video").removeAttribute("src");
  by("notes").replaceChildren();
  while (urls.length) URL.revokeObjectURL(urls.pop());
}

function kept(blob) {
  urls.push(URL.createObjectURL(blob));
  return urls.at(-1);
}

// Says what goes on, and how far it is, from 0 to 1, if that is known.
function say(text, share) {
  by("status").hidden = false;
  tell(text);
  if (share === undefined) by("progress").removeAttribute("value");
  else by("progress").value = share;
}

function tell(text) {
  by("said").textContent = text;
}

function idle() {
  by("status").hidden = true;
}

function note(text) {
  if (!text) return;
  const item = document.createElement("li");
  item.textContent = text;
  by("notes").append(item);
}

function fail(error) {
  idle();
  by("again").hidden = !file;
  if (error.name === "AbortError") return;
  if (!(error instanceof Trouble)) console.error(error);
  by("trouble").textContent = error instanceof Trouble ? error.message : "Something on this page went wrong; load it again.";
  by("trouble").hidden = false;
}
