// Exact comparisons of pictures, pixel by pixel.
import { isHole } from "./hole.js";
import { strips } from "./pictures.js";

// How many known pixels differ between the photo and its filled version.
export async function changedKnown(before, after, hole) {
  if (before.width !== after.width || before.height !== after.height) return before.width * before.height;
  let changed = 0;
  const { width, height } = before;
  for (const [, , [old, now, painted]] of strips(width, height, before, after, hole)) {
    for (let at = 0; at < old.length; at += 4) {
      const same = old[at] === now[at] && old[at + 1] === now[at + 1] && old[at + 2] === now[at + 2] && old[at + 3] === now[at + 3];
      if (!same && !isHole(painted, at)) changed++;
    }
    await pause();
  }
  return changed;
}

// A map of where two pictures differ, black to yellow, and how much: 0 to 255 of any channel.
export async function difference(one, other) {
  const { width, height } = one;
  const levels = new Uint8Array(width * height);
  let most = 0, sum = 0, count = 0;
  for (const [top, , [a, b]] of strips(width, height, one, other)) {
    for (let at = 0, pixel = top * width; at < a.length; at += 4, pixel++) {
      const level = Math.max(Math.abs(a[at] - b[at]), Math.abs(a[at + 1] - b[at + 1]), Math.abs(a[at + 2] - b[at + 2]));
      levels[pixel] = level;
      if (level) {
        most = Math.max(most, level);
        sum += level;
        count++;
      }
    }
    await pause();
  }
  return { most, mean: count ? sum / count : 0, count, map: await mapOf(levels, most, width, height) };
}

function mapOf(levels, most, width, height) {
  const image = new ImageData(width, height);
  const palette = new ImageData(256, 1);
  for (let level = 0; level <= most; level++) {
    const share = most ? level / most : 0;
    palette.data.set([255 * Math.min(1, 2 * share), 255 * Math.max(0, 2 * share - 1), 70 * share, 255], 4 * level);
  }
  const colours = new Uint32Array(palette.data.buffer), pixels = new Uint32Array(image.data.buffer);
  for (let pixel = 0; pixel < levels.length; pixel++) pixels[pixel] = colours[levels[pixel]];
  return createImageBitmap(image);
}

// Lets the page answer between strips.
const pause = () => new Promise((resolve) => setTimeout(resolve));
