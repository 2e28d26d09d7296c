// The picture on the stage: before and after, zoomed and moved, with a box or a point drawn on it.

const MOST = 8; // 800 %
const LEAST = 0.05;
const PIXELATED = 3;

const clamp = (value, least, most) => Math.min(Math.max(value, least), most);

export class Viewer extends EventTarget {
  constructor(page) {
    super();
    Object.assign(this, { page, width: 1, height: 1, scale: 1, x: 0, y: 0, tool: "auto", pointers: new Map() });
    const { stage, split } = page;
    split.addEventListener("input", () => this.draw());
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.down(event));
    stage.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => this.up(event));
    stage.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.fitted ? this.fit() : this.draw()).observe(stage);
  }

  show(width, height) {
    Object.assign(this, { width, height });
    this.page.sheet.style.width = `${width}px`;
    this.page.sheet.style.height = `${height}px`;
    this.fit();
  }

  mark({ box, point }) {
    this.marked = { box, point };
    this.draw();
  }

  fit() {
    const { clientWidth, clientHeight } = this.page.stage;
    this.scale = clamp(Math.min((clientWidth - 32) / this.width, (clientHeight - 32) / this.height), LEAST, 1);
    this.x = (clientWidth - this.width * this.scale) / 2;
    this.y = (clientHeight - this.height * this.scale) / 2;
    this.fitted = true;
    this.draw();
  }

  zoom(factor, at) {
    const { clientWidth, clientHeight } = this.page.stage;
    const [x, y] = at ?? [clientWidth / 2, clientHeight / 2];
    const scale = clamp(this.scale * factor, LEAST, MOST);
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.draw();
  }

  pan(x, y) {
    this.x += x;
    this.y += y;
    this.fitted = false;
    this.draw();
  }

  draw() {
    const { stage, sheet, after, before, divider, split, zoom, box, point } = this.page;
    const { clientWidth, clientHeight } = stage;
    // Some of the picture stays on the stage, however it is moved.
    this.x = clamp(this.x, 48 - this.width * this.scale, clientWidth - 48);
    this.y = clamp(this.y, 48 - this.height * this.scale, clientHeight - 48);
    sheet.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    sheet.style.backgroundSize = `${24 / this.scale}px ${24 / this.scale}px`;
    sheet.classList.toggle("close", this.scale >= PIXELATED);
    const share = Number(split.value);
    sheet.hidden = !after.hasAttribute("src") && !before.hasAttribute("src");
    const both = after.hasAttribute("src") && before.hasAttribute("src");
    before.style.clipPath = both ? `inset(0 ${100 - share}% 0 0)` : "none";
    after.style.clipPath = both ? `inset(0 0 0 ${share}%)` : "none";
    divider.hidden = !both;
    divider.style.left = `${this.x + (this.width * this.scale * share) / 100 - 1}px`;
    zoom.value = `${Math.round(this.scale * 100)} %`;
    const marked = this.marked ?? {};
    box.hidden = !marked.box;
    if (marked.box) {
      const [x0, y0, x1, y1] = marked.box;
      place(box, x0, y0, x1 - x0, y1 - y0, 2 / this.scale);
    }
    point.hidden = !marked.point;
    if (marked.point) {
      const radius = 7 / this.scale;
      place(point, marked.point[0] - radius, marked.point[1] - radius, 2 * radius, 2 * radius, 3 / this.scale);
    }
  }

  at(event) {
    const { left, top } = this.page.stage.getBoundingClientRect();
    return [event.clientX - left - this.page.stage.clientLeft, event.clientY - top - this.page.stage.clientTop];
  }

  pixel([x, y]) {
    return [
      clamp(Math.floor((x - this.x) / this.scale), 0, this.width - 1),
      clamp(Math.floor((y - this.y) / this.scale), 0, this.height - 1),
    ];
  }

  wheel(event) {
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY / 400), this.at(event));
  }

  down(event) {
    if (event.target.closest("button") || event.button) return;
    this.page.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.at(event));
    this.slides = Boolean(event.target.closest("#divider"));
    this.begun = this.pixel(this.at(event));
  }

  move(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    const now = this.at(event);
    if (this.pointers.size === 2) this.pinch(event.pointerId, now);
    else if (this.slides) this.slide(now);
    else if (this.tool === "box") this.mark({ box: around(this.begun, this.pixel(now)) });
    else if (this.tool !== "point") this.pan(now[0] - last[0], now[1] - last[1]);
    this.pointers.set(event.pointerId, now);
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId) || this.pointers.size || event.type === "pointercancel") return;
    if (this.slides || this.pinched) {
      this.pinched = false;
      return;
    }
    const end = this.pixel(this.at(event));
    if (this.tool === "point") this.tell("point", end);
    else if (this.tool === "box") this.tell("box", around(this.begun, end));
  }

  pinch(id, now) {
    const [other] = [...this.pointers].filter(([key]) => key !== id).map(([, place]) => place);
    const apart = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
    const middle = [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2];
    this.zoom(apart(now, other) / Math.max(1, apart(this.pointers.get(id), other)), middle);
    this.pinched = true;
  }

  slide([x]) {
    this.page.split.value = clamp((100 * (x - this.x)) / (this.width * this.scale), 0, 100);
    this.draw();
  }

  key(event) {
    if (event.target !== this.page.stage) return;
    const moves = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
    if (moves[event.key]) this.pan(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoom(1.25);
    else if (event.key === "-") this.zoom(0.8);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }

  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

const around = ([x, y], [u, v]) => [Math.min(x, u), Math.min(y, v), Math.max(x, u) + 1, Math.max(y, v) + 1];

function place(element, x, y, width, height, line) {
  const style = { left: x, top: y, width, height, borderWidth: line, outlineWidth: line / 2 };
  for (const [name, value] of Object.entries(style)) element.style[name] = `${value}px`;
}
