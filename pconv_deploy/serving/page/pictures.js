// Picture files: what they are, and their pixels as viewers show them (EXIF orientation applied).

const TURNS = { 2: [-1, 0, 0, 1], 3: [-1, 0, 0, -1], 4: [1, 0, 0, -1], 5: [0, 1, 1, 0], 6: [0, 1, -1, 0], 7: [0, -1, -1, 0], 8: [0, -1, 1, 0] };
// A picture of 2x1 pixels with orientation 6. Browsers turn every JPEG, PNGs and WebPs some do.
const PROBES = {
  png: "iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAIAAAB7QOjdAAAAGmVYSWZNTQAqAAAACAABARIAAwAAAAEABgAAAAAAANZnS2kAAAAPSURBVHicY/zPwMDAwAAABggBActHdnUAAAAASUVORK5CYII=",
  webp: "UklGRlAAAABXRUJQVlA4WAoAAAAIAAAAAQAAAAAAVlA4TA8AAAAvAQAAAAcQ/Y/+ByKi/wEARVhJRhoAAABNTQAqAAAACAABARIAAwAAAAEABgAAAAAAAA==",
};
// Nothing that changes the values of pixels: they are compared.
const AS_STORED = { colorSpaceConversion: "none", premultiplyAlpha: "none" };

// "jpg", "png", "webp", "tif" or "": anything else.
export async function kindOf(blob) {
  const bytes = new Uint8Array(await blob.slice(0, 12).arrayBuffer());
  const text = String.fromCharCode(...bytes);
  if (text.startsWith("\x89PNG")) return "png";
  if (text.startsWith("\xff\xd8\xff")) return "jpg";
  if (text.startsWith("RIFF") && text.endsWith("WEBP")) return "webp";
  if (text.startsWith("II*\0") || text.startsWith("MM\0*")) return "tif";
  return "";
}

// An ImageBitmap as viewers show the picture. Rejects where the browser cannot read it.
export async function upright(blob) {
  const bitmap = await createImageBitmap(blob, AS_STORED);
  const kind = await kindOf(blob);
  if (!(kind in PROBES)) return bitmap;
  const turn = TURNS[orientationOf(new DataView(await blob.arrayBuffer()), kind)];
  if (!turn || (await turnedByBrowser(kind))) return bitmap;
  return turned(bitmap, turn);
}

const known = {};
function turnedByBrowser(kind) {
  known[kind] ??= (async () => {
    const bytes = Uint8Array.from(atob(PROBES[kind]), (character) => character.charCodeAt(0));
    const probe = await createImageBitmap(new Blob([bytes], { type: `image/${kind}` }));
    return probe.height === 2;
  })();
  return known[kind];
}

function turned(bitmap, [a, b, c, d]) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = a ? [bitmap.width, bitmap.height] : [bitmap.height, bitmap.width];
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  context.setTransform(a, b, c, d, a + c < 0 ? width : 0, b + d < 0 ? height : 0);
  context.drawImage(bitmap, 0, 0);
  return createImageBitmap(canvas, AS_STORED);
}

function orientationOf(view, kind) {
  try {
    const start = kind === "png" ? exifOfPng(view) : exifOfWebp(view);
    return start ? orientationOfTiff(view, start) : 1;
  } catch {
    return 1; // cut off or damaged
  }
}

function exifOfPng(view) {
  for (let at = 8; at + 8 < view.byteLength; at += 12 + view.getUint32(at)) {
    if (view.getUint32(at + 4) === 0x65584966) return at + 8; // eXIf
  }
  return 0;
}

function exifOfWebp(view) {
  for (let at = 12; at + 8 < view.byteLength; ) {
    const size = view.getUint32(at + 4, true);
    if (view.getUint32(at) === 0x45584946) {
      const marked = view.getUint32(at + 8) === 0x45786966; // "Exif", as in JPEG
      return at + 8 + (marked ? 6 : 0);
    }
    at += 8 + size + (size % 2);
  }
  return 0;
}

function orientationOfTiff(view, start) {
  const little = view.getUint16(start) === 0x4949;
  const directory = start + view.getUint32(start + 4, little);
  const count = view.getUint16(directory, little);
  for (let entry = 0; entry < count; entry++) {
    const at = directory + 2 + 12 * entry;
    if (view.getUint16(at, little) === 0x0112) return view.getUint16(at + 8, little);
  }
  return 1;
}

// Pixels of bitmaps and canvases of one size, some rows at a time: a photo of 40 megapixels would
// take 160 MB for each of them.
export function* strips(width, height, ...pictures) {
  const rows = Math.max(1, Math.min(height, Math.floor(2 ** 21 / width)));
  const contexts = pictures.map(() => {
    const canvas = new OffscreenCanvas(width, rows);
    return canvas.getContext("2d", { willReadFrequently: true });
  });
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    yield [top, count, contexts.map((context, index) => {
      context.clearRect(0, 0, width, rows);
      context.drawImage(pictures[index], 0, -top);
      return context.getImageData(0, 0, width, count).data;
    })];
  }
}
