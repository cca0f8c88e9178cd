import type { Event } from '../model/events.js';
import type { Ui } from './ui.js';

/** Every event as a line of JSON, with its time in ISO 8601, beside what `ui` shows. */
export function withNdjson(ui: Ui, write: (line: string) => void, now: () => number = Date.now): Ui {
  return {
    emit: (event: Event) => {
      write(`${JSON.stringify({ time: new Date(now()).toISOString(), ...event })}\n`);
      ui.emit(event);
    },
    say: (text) => ui.say(text),
    pause: () => ui.pause(),
    resume: () => ui.resume(),
    close: () => ui.close(),
  };
}
