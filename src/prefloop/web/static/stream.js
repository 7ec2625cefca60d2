// Reads one turn's event stream into callbacks. Offsets make replays harmless: text that is here already is dropped.

const RETRY_MILLISECONDS = 1500;

export class TurnReader {
  // handlers: delta(side, text), done(side, html), ready(), voided(message), connection(isGood)
  constructor(url, handlers) {
    this.url = url;
    this.handlers = handlers;
    this.received = { a: 0, b: 0 }; // code points, as the server counts
    this.closed = false;
    this.connect();
  }

  connect() {
    const at = `${this.received.a}-${this.received.b}`;
    this.source = new EventSource(`${this.url}?from=${at}`);
    const on = (name, handle) =>
      this.source.addEventListener(name, (event) => {
        this.handlers.connection(true);
        handle(JSON.parse(event.data));
      });
    on("delta", ({ side, offset, text }) => this.take(side, offset, text));
    on("done", ({ side, html }) => this.handlers.done(side, html));
    on("turn_ready", () => {
      this.close();
      this.handlers.ready();
    });
    on("void", ({ message }) => {
      this.close();
      this.handlers.voided(message);
    });
    this.source.onerror = () => {
      if (this.closed) return;
      this.handlers.connection(false);
      if (this.source.readyState === EventSource.CLOSED) {
        this.timer = setTimeout(() => this.connect(), RETRY_MILLISECONDS);
      }
    };
  }

  take(side, offset, text) {
    const known = this.received[side] - offset;
    if (known < 0) return; // a gap cannot be shown; the reconnection asks from where we are
    const points = Array.from(text);
    if (points.length <= known) return;
    this.received[side] = offset + points.length;
    this.handlers.delta(side, known === 0 ? text : points.slice(known).join(""));
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.source.close();
  }
}
