// A list of any length with rows of one height, of which only those near the screen are in the document.

class Rows {
  /** @param make the element of row number `index`. */
  constructor(scroller, canvas, count, height, make) {
    Object.assign(this, { scroller, canvas, count, height, make, drawn: new Map() });
    canvas.style.height = `${count * height}px`;
    this.update();
  }

  update() {
    const top = this.scroller.scrollTop - this.canvas.offsetTop;
    const first = Math.max(0, Math.floor(top / this.height) - 1);
    const last = Math.min(this.count - 1, Math.floor((top + this.scroller.clientHeight) / this.height) + 1);
    for (const [index, row] of this.drawn) {
      if (index >= first && index <= last) continue;
      row.remove();
      this.drawn.delete(index);
    }
    // In the document in their order, which is the order of the tab key.
    let next = null;
    for (let index = last; index >= first; index--) {
      if (!this.drawn.has(index)) {
        const row = this.make(index);
        row.style.top = `${index * this.height}px`;
        row.style.height = `${this.height}px`;
        this.canvas.insertBefore(row, next);
        this.drawn.set(index, row);
      }
      next = this.drawn.get(index);
    }
  }

  /** Scroll as little as shows the whole row, below `covered` pixels at the top. */
  show(index, covered = 0) {
    const top = this.canvas.offsetTop + index * this.height;
    const { scrollTop, clientHeight } = this.scroller;
    if (top - covered < scrollTop) this.scroller.scrollTop = top - covered;
    else if (top + this.height > scrollTop + clientHeight) this.scroller.scrollTop = top + this.height - clientHeight;
    this.update();
  }
}
