// What is to be filled: a list of steps, drawn on a canvas of the photo's size.
//
// Undo draws the steps before it anew, which takes no memory for each step. A second, smaller
// canvas is drawn beside it, for views from afar of large photos.
import { strips } from "./pictures.js";

const COLOUR = "#ff2e88";
const PREVIEW = 2048; // pixels of its longer side at most
const LEAST = 16; // from this level a mask's pixel is hole, as in the server
const HALF = 128; // an edge is smoothed on screen; from here a pixel is hole

export class Hole {
  #steps = [];
  #undone = [];
  #before = []; // what a step that is dropped again gives back to redo
  #layers;

  constructor(width, height) {
    this.width = width;
    this.height = height;
    const scale = Math.min(1, PREVIEW / Math.max(width, height));
    this.#layers = scale < 1 ? [layer(width, height, 1), layer(width, height, scale)] : [layer(width, height, 1)];
  }

  // The canvas to draw a view with so many screen pixels for each of the photo's.
  canvasFor(scale) {
    const preview = this.#layers.at(-1);
    return scale <= preview.scale ? preview.context.canvas : this.#layers[0].context.canvas;
  }

  get canUndo() { return this.#steps.length > 0; }
  get canRedo() { return this.#undone.length > 0; }

  // A step: {tool: "brush" or "eraser", size, points}, {tool: "box" or "lasso", points},
  // {tool: "clear"}, {tool: "invert"}, {tool: "mask", canvas}. Points are [x, y] of the photo.
  add(step) {
    this.#steps.push(step);
    this.#before = this.#undone;
    this.#undone = [];
    this.#draw(step);
  }

  // Add a point to a stroke that is under way, without drawing all of it again.
  extend(point) {
    const step = this.#steps.at(-1);
    step.points.push(point);
    this.#draw(step, step.points.length - 1);
  }

  undo() {
    if (!this.canUndo) return;
    this.#undone.push(this.#steps.pop());
    this.#again();
  }

  redo() {
    if (!this.canRedo) return;
    const step = this.#undone.pop();
    this.#steps.push(step);
    this.#draw(step);
  }

  // Whatever was begun and is not meant.
  drop() {
    this.#steps.pop();
    this.#undone = this.#before;
    this.#again();
  }

  #again() {
    for (const { context } of this.#layers) context.clearRect(0, 0, this.width, this.height);
    // What lies before a step that replaces everything need not be drawn.
    const whole = this.#steps.findLastIndex(({ tool }) => tool === "clear" || tool === "mask");
    for (const step of this.#steps.slice(Math.max(0, whole))) this.#draw(step);
  }

  #draw(step, first = 0) {
    for (const { context } of this.#layers) {
      context.globalCompositeOperation = step.tool === "eraser" ? "destination-out" : "source-over";
      DRAW[step.tool](context, step, this, first);
    }
  }

  // Share of the photo that is hole, and a PNG of it: white is to be filled, nothing is smoothed.
  async mask() {
    const { width, height } = this;
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d");
    let filled = 0;
    for (const [top, rows, [pixels]] of strips(width, height, this.canvasFor(Infinity))) {
      for (let at = 0; at < pixels.length; at += 4) {
        const hole = isHole(pixels, at);
        filled += hole;
        pixels[at] = pixels[at + 1] = pixels[at + 2] = hole ? 255 : 0;
        pixels[at + 3] = 255;
      }
      context.putImageData(new ImageData(pixels, width, rows), 0, top);
    }
    return { share: filled / (width * height), blob: await canvas.convertToBlob({ type: "image/png" }) };
  }
}

export function isHole(pixels, at) {
  return pixels[at + 3] >= HALF;
}

// A canvas to add as a step, of a mask's picture scaled to the photo's size; null: nothing is hole.
// A picture of 0 and 1 holds labels, as the server reads it.
export function canvasOfMask(bitmap, width, height) {
  const scaled = new OffscreenCanvas(width, height);
  const context = scaled.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(bitmap, 0, 0, width, height);
  const canvas = new OffscreenCanvas(width, height);
  const target = canvas.getContext("2d");
  const [red, green, blue] = [1, 3, 5].map((start) => parseInt(COLOUR.slice(start, start + 2), 16));
  let most = 0;
  for (const [, , [pixels]] of strips(width, height, scaled)) {
    for (let at = 0; at < pixels.length; at += 4) most = Math.max(most, level(pixels, at));
  }
  if (!most) return null;
  if (most > 1 && most < LEAST) throw new Error(`The mask holds no value above ${most} of 255: too dark to be told from black.`);
  const least = Math.min(most, LEAST);
  for (const [top, rows, [pixels]] of strips(width, height, scaled)) {
    for (let at = 0; at < pixels.length; at += 4) {
      const hole = level(pixels, at) >= least;
      pixels[at] = red;
      pixels[at + 1] = green;
      pixels[at + 2] = blue;
      pixels[at + 3] = hole ? 255 : 0;
    }
    target.putImageData(new ImageData(pixels, width, rows), 0, top);
  }
  return canvas;
}

function level(pixels, at) {
  return Math.round((Math.max(pixels[at], pixels[at + 1], pixels[at + 2]) * pixels[at + 3]) / 255);
}

function layer(width, height, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.scale(canvas.width / width, canvas.height / height);
  context.fillStyle = context.strokeStyle = COLOUR;
  context.lineCap = context.lineJoin = "round";
  return { context, scale };
}

// Piece by piece, as it was painted: drawn at once, its edges would differ by a pixel here or there.
function line(context, { size, points }, _hole, first = 0) {
  context.lineWidth = size;
  if (first === 0) { // lines of no length are not drawn
    context.beginPath();
    context.arc(...points[0], size / 2, 0, 2 * Math.PI);
    context.fill();
  }
  for (let at = Math.max(1, first); at < points.length; at++) {
    context.beginPath();
    context.moveTo(...points[at - 1]);
    context.lineTo(...points[at]);
    context.stroke();
  }
}

const DRAW = {
  brush: line,
  eraser: line,
  box(context, { points: [from, to] }) {
    const [left, top] = [0, 1].map((axis) => Math.floor(Math.min(from[axis], to[axis])));
    const [right, bottom] = [0, 1].map((axis) => Math.ceil(Math.max(from[axis], to[axis])));
    context.fillRect(left, top, right - left, bottom - top);
  },
  lasso(context, { points }) {
    context.beginPath();
    for (const point of points) context.lineTo(...point);
    context.fill();
  },
  clear(context, _step, { width, height }) {
    context.clearRect(0, 0, width, height);
  },
  invert(context, _step, { width, height }) {
    context.globalCompositeOperation = "source-out"; // there where nothing was
    context.fillRect(0, 0, width, height);
  },
  mask(context, { canvas }, { width, height }) {
    context.clearRect(0, 0, width, height);
    context.imageSmoothingEnabled = false;
    context.drawImage(canvas, 0, 0, width, height);
  },
};
