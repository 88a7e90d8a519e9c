// One or several panes that show pictures of one size, moved and enlarged together.

const MOST = 32; // screen pixels for one of the photo's

export class View extends EventTarget {
  #panes = [];
  #frame = 0;
  #size = [1, 1];
  #fitted = true;

  constructor(stage) {
    super();
    this.stage = stage;
    this.scale = 1; // CSS pixels for one of the photo's
    this.x = this.y = 0; // where the photo's corner lies in a pane, in CSS pixels
    new ResizeObserver(() => (this.#fitted ? this.fit() : this.redraw())).observe(stage);
  }

  // Panes are {label, draw(context, scale)}: draw in the photo's pixels.
  show(panes, width, height) {
    const same = this.#size[0] === width && this.#size[1] === height && panes.length === this.#panes.length;
    this.#size = [width, height];
    this.stage.classList.toggle("compared", panes.length > 1);
    this.stage.replaceChildren(...panes.map((pane, index) => {
      const box = document.createElement("div");
      box.className = "pane";
      const canvas = document.createElement("canvas");
      canvas.tabIndex = index ? -1 : 0;
      canvas.setAttribute("role", "application");
      canvas.setAttribute("aria-label", pane.description);
      box.append(canvas);
      if (pane.label) {
        const label = document.createElement("p");
        label.textContent = pane.label;
        box.append(label);
      }
      pane.canvas = canvas;
      return box;
    }));
    this.#panes = panes;
    if (same && !this.#fitted) this.redraw();
    else this.fit();
  }

  get canvas() { return this.#panes[0]?.canvas; }
  get paneSize() {
    const { clientWidth, clientHeight } = this.#panes[0].canvas.parentElement;
    return [clientWidth, clientHeight];
  }

  fit() {
    if (!this.#panes.length) return;
    const [across, down] = this.paneSize;
    const [width, height] = this.#size;
    this.scale = Math.min(across / width, down / height, 4) || 1;
    this.x = (across - width * this.scale) / 2;
    this.y = (down - height * this.scale) / 2;
    this.#fitted = true;
    this.redraw();
  }

  // Enlarge around a place in a pane; without one, around its middle.
  zoom(factor, place = this.paneSize.map((side) => side / 2)) {
    const [width, height] = this.#size;
    const least = Math.min(1, ...this.paneSize.map((side, axis) => side / [width, height][axis])) / 2;
    const scale = Math.min(MOST, Math.max(least, this.scale * factor));
    this.x = place[0] - ((place[0] - this.x) * scale) / this.scale;
    this.y = place[1] - ((place[1] - this.y) * scale) / this.scale;
    this.scale = scale;
    this.#moved();
  }

  move(across, down) {
    this.x += across;
    this.y += down;
    this.#moved();
  }

  // Bring a place of the photo into view.
  reveal([x, y]) {
    const margin = 30;
    const [across, down] = this.paneSize;
    const [left, top] = [this.x + x * this.scale, this.y + y * this.scale];
    const inside = (at, side) => Math.min(Math.max(at, margin), side - margin) - at;
    const [right, below] = [inside(left, across), inside(top, down)];
    if (right || below) this.move(right, below);
  }

  toPhoto([x, y]) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  #moved() {
    const [across, down] = this.paneSize;
    const keep = 60; // of the photo stays to be seen
    this.x = Math.min(across - keep, Math.max(keep - this.#size[0] * this.scale, this.x));
    this.y = Math.min(down - keep, Math.max(keep - this.#size[1] * this.scale, this.y));
    this.#fitted = false;
    this.redraw();
  }

  redraw() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      for (const pane of this.#panes) this.#drawPane(pane);
      this.dispatchEvent(new Event("drawn"));
    });
  }

  #drawPane({ canvas, draw }) {
    const ratio = devicePixelRatio;
    const width = Math.round(canvas.parentElement.clientWidth * ratio);
    const height = Math.round(canvas.parentElement.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    context.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * this.x, ratio * this.y);
    context.imageSmoothingEnabled = this.scale * ratio < 3; // single pixels are to be seen then
    draw(context, this.scale * ratio);
  }
}

// A bitmap that is quick to draw from afar, too.
export class Picture {
  #small;
  #closed = false;

  constructor(bitmap) {
    this.bitmap = bitmap;
    this.width = bitmap.width;
    this.height = bitmap.height;
    const scale = 2048 / Math.max(bitmap.width, bitmap.height);
    if (scale < 1) {
      createImageBitmap(bitmap, {
        resizeWidth: Math.max(1, Math.round(bitmap.width * scale)),
        resizeHeight: Math.max(1, Math.round(bitmap.height * scale)),
        resizeQuality: "medium",
      }).then((small) => (this.#closed ? small.close() : (this.#small = small))).catch(() => {});
    }
  }

  // Free its memory, which the browser would keep for long.
  close() {
    this.#closed = true;
    this.bitmap.close();
    this.#small?.close();
  }

  draw(context, scale) {
    const small = this.#small && scale * this.width <= this.#small.width;
    context.drawImage(small ? this.#small : this.bitmap, 0, 0, this.width, this.height);
  }
}
