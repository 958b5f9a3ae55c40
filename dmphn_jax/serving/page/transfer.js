// Sending files, with progress, and reading what comes back.

export class Trouble extends Error {}

// Posts a file in a form's field. `told` gets the share that is sent, from 0 to 1. Waits and asks
// again where the queue is full. Resolves to the XMLHttpRequest, its response a Blob.
export async function post(address, field, file, { told, waits, signal }) {
  for (;;) {
    const request = await once(address, field, file, told, signal);
    if (request.status >= 200 && request.status < 300) return request;
    const detail = await reason(request.response, request.status);
    const seconds = Number(request.getResponseHeader("Retry-After"));
    if (request.status !== 503 || !seconds) throw new Trouble(`${file.name}: ${detail}.`);
    waits(`${detail}. Asking again in ${seconds} s.`);
    await sleep(seconds, signal);
  }
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
  if (!answer.ok) throw new Trouble(await reason(await answer.blob(), answer.status));
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
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("", "AbortError"));
    }, { once: true });
  });
}
