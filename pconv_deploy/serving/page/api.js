// Talks to the server. Every failure becomes a ServerError whose message is for people.

export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const STAGES = ["queue", "decode", "pre", "infer", "post", "encode", "total"];

// Kept for this tab alone.
export const key = {
  get: () => sessionStorage.getItem("key") ?? "",
  set: (text) => sessionStorage.setItem("key", text),
};

// `read` takes the answer's body.
async function ask(address, read, options = {}) {
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  let answer;
  try {
    answer = await fetch(address, { ...options, headers });
    if (answer.ok) return await read(answer);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. Is it still running?");
  }
  const told = await answer.json().catch(() => ({}));
  throw new ServerError(messageOf(answer, told), answer.status);
}

function messageOf(answer, told) {
  if (answer.status === 503) {
    return `The server is busy: ${told.error ?? "too many requests wait"}.`;
  }
  return told.error ?? `The server answered ${answer.status}.`;
}

export async function server() {
  return ask("v1/models", (answer) => answer.json());
}

export async function examples() {
  return (await ask("v1/examples", (answer) => answer.json())).examples;
}

export async function file(address) {
  return ask(address, (answer) => answer.blob());
}

// Fills the hole of a photo; `photo` and `mask` are blobs. Resolves to the picture and its facts.
export async function fill(model, photo, name, mask, { format = "png", signal, ...fields } = {}) {
  const form = new FormData();
  form.append("image", photo, name);
  form.append("mask", mask, "hole.png");
  for (const [field, value] of Object.entries({ format, ...fields })) form.append(field, value);
  const begun = performance.now();
  const address = `v1/models/${encodeURIComponent(model)}/fill`;
  const read = async (answer) => [answer, await answer.blob()];
  const [answer, blob] = await ask(address, read, { method: "POST", body: form, signal });
  const milliseconds = Object.fromEntries(
    STAGES.map((stage) => [stage, Number(answer.headers.get(`X-${stage}-Ms`))]),
  );
  const notes = answer.headers.get("X-Note");
  return {
    blob,
    holeShare: Number(answer.headers.get("X-Hole-Share")),
    notes: notes ? notes.split(", ").map(decodeURIComponent) : [],
    milliseconds: { ...milliseconds, all: performance.now() - begun },
  };
}

// The server reads formats that browsers do not show, and writes those that they do not write:
// an empty hole leaves the photo as it is.
export async function converted(model, photo, name, format) {
  return (await fill(model, photo, name, await emptyMask(), { format, fit_masks: "true" })).blob;
}

function emptyMask() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, 1, 1);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
