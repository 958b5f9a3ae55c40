// Two pictures over each other with a line between them that moves, under one zoom.

const MOST = 16;

export class Viewer {
  constructor() {
    const by = (id) => document.getElementById(id);
    this.figure = by("viewer");
    this.frame = by("frame");
    this.slider = by("slider");
    this.before = by("before");
    this.after = by("after");
    this.zoomShown = by("zoom");
    this.split = 50; // percent of the width, from the left, that shows the picture as it was
    this.scale = 1;
    this.x = this.y = 0; // where the scaled picture begins, in pixels of the frame
    this.pointers = new Map();
    this.listen();
    by("in").onclick = () => this.zoom(1.5);
    by("out").onclick = () => this.zoom(1 / 1.5);
    by("fit").onclick = () => this.fit();
    by("actual").onclick = () => this.zoom(this.actual / this.scale);
  }

  // Shows a picture alone; rejects if the browser cannot.
  async showBefore(url) {
    this.before.src = url;
    this.after.removeAttribute("src");
    await this.before.decode();
    const { naturalWidth: width, naturalHeight: height } = this.before;
    this.frame.style.aspectRatio = `${width} / ${height}`;
    this.frame.style.width = `min(100%, calc(74vh * ${width / height}))`;
    this.frame.classList.add("alone");
    this.figure.hidden = false;
    this.fit();
  }

  async showAfter(url) {
    this.after.src = url;
    await this.after.decode();
    this.frame.classList.remove("alone");
    this.move(50);
  }

  hide() {
    this.figure.hidden = true;
  }

  // Zoom at which a pixel of the picture is one of the screen.
  get actual() {
    return this.before.naturalWidth / this.frame.clientWidth / window.devicePixelRatio;
  }

  move(split) {
    this.split = Math.min(100, Math.max(0, split));
    this.frame.style.setProperty("--split", `${this.split}%`);
    this.slider.setAttribute("aria-valuenow", Math.round(this.split));
    this.slider.setAttribute("aria-valuetext", `${Math.round(this.split)} % before, the rest after`);
  }

  fit() {
    this.scale = 1;
    this.pan(0, 0);
  }

  // Zooms about a point of the frame, its middle if none is given.
  zoom(factor, x = this.frame.clientWidth / 2, y = this.frame.clientHeight / 2) {
    const scale = Math.min(Math.max(MOST, this.actual * 4), Math.max(1, this.scale * factor));
    const ratio = scale / this.scale;
    this.scale = scale;
    this.pan(x - (x - this.x) * ratio, y - (y - this.y) * ratio);
  }

  // Lays the picture so that it fills the frame.
  pan(x, y) {
    const within = (value, length) => Math.min(0, Math.max(length * (1 - this.scale), value));
    this.x = within(x, this.frame.clientWidth);
    this.y = within(y, this.frame.clientHeight);
    const transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.before.style.transform = this.after.style.transform = transform;
    this.frame.classList.toggle("zoomed", this.scale > 1.001);
    this.zoomShown.textContent = `${Math.round(100 * this.scale)} %`;
  }

  listen() {
    this.slider.addEventListener("keydown", (event) => this.onKey(event));
    this.frame.addEventListener("pointerdown", (event) => this.onDown(event));
    this.frame.addEventListener("pointermove", (event) => this.onMove(event));
    for (const kind of ["pointerup", "pointercancel"]) {
      this.frame.addEventListener(kind, (event) => this.pointers.delete(event.pointerId));
    }
    this.frame.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    this.frame.addEventListener("dblclick", (event) => {
      if (event.target.closest("#slider")) return;
      const [x, y] = this.point(event);
      if (this.scale > 1.001) this.fit();
      else this.zoom(Math.max(2, this.actual), x, y);
    });
    window.addEventListener("resize", () => this.pan(this.x, this.y));
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = this.frame.clientWidth / 10;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const keys = { PageUp: 10, PageDown: -10, Home: -100, End: 100 };
    if (event.key in arrows) {
      const [right, down] = arrows[event.key];
      if (event.shiftKey) this.pan(this.x - right * step, this.y - down * step);
      else this.move(this.split + 2 * (right - down));
    } else if (event.key in keys) this.move(this.split + keys[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoom(1.25);
    else if (event.key === "-" || event.key === "_") this.zoom(1 / 1.25);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }

  onDown(event) {
    if (event.button > 0) return;
    const [x, y] = this.point(event);
    const onLine = event.target.closest("#slider") !== null;
    this.pointers.set(event.pointerId, { x, y, line: onLine || this.scale <= 1.001 });
    this.frame.setPointerCapture(event.pointerId);
    if (onLine) this.slider.focus({ preventScroll: true });
    else if (this.scale <= 1.001 && event.pointerType === "mouse") this.move(100 * x / this.frame.clientWidth);
  }

  onMove(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    const [x, y] = this.point(event);
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId);
    if (others.length) {
      const other = others[0][1];
      const distance = (p) => Math.hypot(p.x - other.x, p.y - other.y);
      const factor = distance({ x, y }) / Math.max(1, distance(last));
      this.zoom(factor, (x + other.x) / 2, (y + other.y) / 2);
    } else if (last.line) this.move(100 * x / this.frame.clientWidth);
    else this.pan(this.x + x - last.x, this.y + y - last.y);
    last.x = x;
    last.y = y;
  }

  onWheel(event) {
    if (event.deltaY > 0 && this.scale <= 1.001) return; // the page may scroll on
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY / 400), ...this.point(event));
  }

  point(event) {
    const box = this.frame.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }
}
