// Pointers and keys on a view: painting the hole, moving and enlarging the photo.

const SMALLEST = 2, LARGEST = 400; // pixels of the screen

export class Painter {
  tool = "brush";
  #enabled = false;
  #pointers = new Map();
  #draft = null; // a box or lasso under way, or {stroke: true}
  #cursor = null; // place in the photo
  #spread = 0;
  #spaceHeld = false;
  #dragged = false; // while Space was held

  // `hole()` returns what is painted on; `changed()` is called after each change.
  constructor(view, hole, changed) {
    this.view = view;
    this.hole = hole;
    this.changed = changed;
    this.share = 0.5; // of the way from the smallest brush to the largest
    const { stage } = view;
    stage.addEventListener("pointerdown", (event) => this.#down(event));
    stage.addEventListener("pointermove", (event) => this.#moved(event));
    // Anywhere: the pane that had the pointer may be gone by then.
    for (const name of ["pointerup", "pointercancel"]) addEventListener(name, (event) => this.#up(event));
    stage.addEventListener("pointerleave", () => this.#pointAt(null));
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    stage.addEventListener("keydown", (event) => this.#key(event));
    addEventListener("keydown", (event) => {
      if (event.key !== " " || !(event.target === document.body || stage.contains(event.target))) return;
      event.preventDefault();
      if (event.repeat) return;
      this.#spaceHeld = true;
      this.#dragged = false;
    });
    addEventListener("keyup", (event) => {
      if (event.key !== " " || !this.#spaceHeld) return;
      this.#spaceHeld = false;
      if (!this.#dragged && this.#enabled && stage.contains(event.target)) this.#space();
    });
    addEventListener("blur", () => (this.#spaceHeld = false));
  }

  get enabled() { return this.#enabled; }
  set enabled(on) {
    if (!on) this.#finish();
    this.#enabled = on;
  }

  // Width of the brush in the photo's pixels: a thinner one would paint what no pixel is half of.
  get width() {
    return Math.max(2, this.size / this.view.scale);
  }

  // Width of the brush in pixels of the screen; the same for the hand at every enlargement.
  get size() {
    return Math.round(SMALLEST * (LARGEST / SMALLEST) ** this.share);
  }

  // Draws what is under way, in the photo's pixels.
  draw(context, scale) {
    const draft = this.#draft;
    context.lineWidth = 2 / scale;
    context.strokeStyle = "#fff";
    context.setLineDash([6 / scale, 4 / scale]);
    context.fillStyle = "#ff2e8855";
    if (draft?.points) {
      const [[left, top], [right, bottom]] = [draft.points[0], draft.points.at(-1)];
      context.beginPath();
      if (draft.tool === "box") context.rect(left, top, right - left, bottom - top);
      else for (const point of draft.points) context.lineTo(...point);
      context.fill();
      context.stroke();
    }
    context.setLineDash([]);
    if (this.#cursor && this.enabled) this.#drawCursor(context, scale);
  }

  #drawCursor(context, scale) {
    const brush = this.tool === "brush" || this.tool === "eraser";
    const radius = brush ? this.width / 2 : 6 / scale;
    for (const [colour, wider] of [["#000", 1], ["#fff", 0]]) {
      context.strokeStyle = colour;
      context.lineWidth = (1 + 2 * wider) / scale;
      context.beginPath();
      context.arc(...this.#cursor, radius, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  // Where an event is in its pane; events that came together with another one have no target.
  #place(event, { target } = event) {
    const box = target.closest?.(".pane")?.getBoundingClientRect();
    return box && [event.clientX - box.left, event.clientY - box.top];
  }

  #down(event) {
    const place = this.#place(event);
    if (!place) return;
    event.target.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, place);
    if (this.#pointers.size === 2) {
      this.cancel();
      this.#spread = this.#distance();
      return;
    }
    if (this.#spaceHeld) this.#dragged = true;
    const moves = event.button === 1 || event.button === 2 || this.#spaceHeld || !this.enabled;
    if (moves || this.#pointers.size > 2) return;
    this.#begin(this.view.toPhoto(place));
  }

  #moved(event) {
    const place = this.#place(event);
    if (!place) return;
    const before = this.#pointers.get(event.pointerId);
    if (!before) {
      this.#pointAt(this.view.toPhoto(place));
      return;
    }
    this.#pointers.set(event.pointerId, place);
    if (this.#pointers.size === 2) {
      this.#pinch(before, place);
    } else if (this.#draft) {
      const all = event.getCoalescedEvents?.() ?? [];
      for (const one of all.length ? all : [event]) this.#continue(this.view.toPhoto(this.#place(one, event)));
    } else {
      this.view.move(place[0] - before[0], place[1] - before[1]);
    }
  }

  #up(event) {
    if (!this.#pointers.delete(event.pointerId)) return;
    if (this.#pointers.size === 2) this.#spread = this.#distance();
    if (event.type === "pointercancel") this.cancel();
    else this.#finish();
  }

  #pinch(before, place) {
    const middle = [...this.#pointers.values()].reduce(([x, y], [right, down]) => [x + right / 2, y + down / 2], [0, 0]);
    const spread = this.#distance();
    this.view.move((place[0] - before[0]) / 2, (place[1] - before[1]) / 2);
    if (this.#spread) this.view.zoom(spread / this.#spread, middle);
    this.#spread = spread;
  }

  #distance() {
    const [[x, y], [right, down]] = this.#pointers.values();
    return Math.hypot(right - x, down - y);
  }

  #begin(point) {
    const hole = this.hole();
    this.#pointAt(point);
    if (this.tool === "box" || this.tool === "lasso") {
      this.#draft = { tool: this.tool, points: [point, point] };
    } else {
      this.#draft = { stroke: true };
      hole.add({ tool: this.tool, size: this.width, points: [point] });
    }
    this.view.redraw();
  }

  #continue(point) {
    this.#pointAt(point);
    if (this.#draft.stroke) this.hole().extend(point);
    else if (this.#draft.tool === "box") this.#draft.points[1] = point;
    else this.#draft.points.push(point);
  }

  #finish() {
    const draft = this.#draft;
    this.#draft = null;
    if (!draft) return;
    if (draft.points && this.#extent(draft.points) >= 3) this.hole().add(draft);
    this.changed();
  }

  // Give up what is under way; whether anything was.
  cancel() {
    const draft = this.#draft;
    if (draft?.stroke) this.hole().drop();
    this.#draft = null;
    this.view.redraw();
    if (draft) this.changed();
    return Boolean(draft);
  }

  // Of a box or lasso, in pixels of the screen: a mere click is none.
  #extent(points) {
    const sides = [0, 1].map((axis) => points.map((point) => point[axis])).map((all) => Math.max(...all) - Math.min(...all));
    return Math.max(...sides) * this.view.scale;
  }

  #pointAt(point) {
    this.#cursor = point;
    this.view.redraw();
  }

  #wheel(event) {
    event.preventDefault();
    const place = this.#place(event);
    // Two fingers on a trackpad come as a wheel with Ctrl, in smaller steps.
    if (place) this.view.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), place);
  }

  // Painting without a pointer.
  #key(event) {
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const arrow = arrows[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (!this.#enabled) {
      if (!arrow) return;
      this.view.move(-40 * arrow[0], -40 * arrow[1]);
    } else if (arrow) {
      const step = (event.shiftKey ? 50 : 10) / this.view.scale;
      const from = this.#cursor ?? this.view.toPhoto(this.view.paneSize.map((side) => side / 2));
      const to = [0, 1].map((axis) => from[axis] + arrow[axis] * step);
      if (this.#draft) this.#continue(to);
      this.#pointAt(to);
      this.view.reveal(to);
    } else if (event.key === "Escape") {
      this.cancel();
    } else {
      return;
    }
    event.preventDefault();
  }

  #space() {
    if (this.#draft) {
      this.#finish();
    } else {
      this.#begin(this.#cursor ?? this.view.toPhoto(this.view.paneSize.map((side) => side / 2)));
      // A dab of the brush is whole; a box or lasso goes on to the next Space.
      if (this.#draft.stroke) this.#finish();
    }
  }
}
