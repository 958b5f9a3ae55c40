// Sending files, with progress, and reading what comes back.

const SENDINGS = 3; // of a picture that found the queue full after all
const ASKINGS = 20; // for a place before each

export class Trouble extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

// Posts a picture as `post` does, once the queue has a place: `waits` is told what it waits for.
export async function postInTurn(address, field, file, { told, waits, signal }) {
  for (let sendings = 1; ; sendings++) {
    await turn(waits, signal);
    try {
      return await post(address, field, file, { told, signal });
    } catch (error) {
      if (error.status !== 503 || sendings === SENDINGS) throw error;
    }
  }
}

async function turn(waits, signal) {
  for (let askings = 1; ; askings++) {
    const { pictures, seconds } = await ask("v1/places", { signal });
    if (pictures) return;
    if (askings === ASKINGS) throw new Trouble("The queue is still full; try again later.");
    for (let left = seconds; left; left--) {
      waits(`The queue is full. Asking again in ${left} s.`);
      await sleep(1, signal);
    }
  }
}

// Posts a file in a form's field. `told` gets the share that is sent, from 0 to 1. Resolves to the
// XMLHttpRequest, its response a Blob.
export async function post(address, field, file, { told, signal }) {
  const request = await once(address, field, file, told, signal);
  if (request.status >= 200 && request.status < 300) return request;
  throw new Trouble(`${file.name}: ${await reason(request.response, request.status)}.`, request.status);
}

function once(address, field, file, told, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address);
    request.responseType = "blob";
    request.upload.onprogress = (event) => event.lengthComputable && told(event.loaded / event.total);
    request.onload = () => resolve(request);
    request.onerror = () => reject(new Trouble("The server cannot be reached, or it has ended the connection."));
    request.onabort = () => reject(new DOMException("", "AbortError"));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    const form = new FormData();
    form.append(field, file, file.name);
    request.send(form);
  });
}

// Returns what a problem document says.
async function reason(blob, status) {
  try {
    return JSON.parse(await blob.text()).detail;
  } catch {
    return `The server answers with status ${status}.`;
  }
}

export async function ask(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("The server cannot be reached.");
  }
  if (!answer.ok) throw new Trouble(await reason(await answer.blob(), answer.status), answer.status);
  return answer.status === 204 ? null : answer.json();
}

// Returns the file's name that an answer carries.
export function nameIn(request, otherwise) {
  const header = request.getResponseHeader("Content-Disposition") || "";
  const coded = header.match(/filename\*=utf-8''([^;]+)/i);
  const plain = header.match(/filename="([^"]+)"/i);
  return coded ? decodeURIComponent(coded[1]) : plain ? plain[1] : otherwise;
}

export function sleep(seconds, signal) {
  return new Promise((resolve, reject) => {
    const stopped = () => {
      clearTimeout(timer);
      reject(new DOMException("", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stopped);
      resolve();
    }, 1000 * seconds);
    signal.addEventListener("abort", stopped, { once: true });
  });
}
