"use strict";
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const GRIP = 24; // pixels on each side of the divider that move it

function view(viewer) {
  const stage = viewer.querySelector(".stage");
  const slider = viewer.querySelector("input[type=range]");
  const zooms = [...viewer.querySelectorAll("input[name^=zoom]")];
  const tag = viewer.querySelector(".before-tag");
  let zoom = 1, x = 0, y = 0; // x, y: of the picture's corner, in sizes of the stage

  function show() {
    x = clamp(x, 1 - zoom, 0);
    y = clamp(y, 1 - zoom, 0);
    viewer.classList.toggle("zoomed", zoom > 1);
    viewer.classList.toggle("close", zoom > 2); // single pixels show
    viewer.style.setProperty("--zoom", zoom);
    viewer.style.setProperty("--x", `${100 * x}%`);
    viewer.style.setProperty("--y", `${100 * y}%`);
    viewer.style.setProperty("--at", `${slider.value}%`);
  }

  function divide(percent) {
    slider.value = clamp(percent, 0, 100);
    show();
  }

  function zoomTo(wanted) { // around the middle of what is seen
    x = 0.5 + ((x - 0.5) * wanted) / zoom;
    y = 0.5 + ((y - 0.5) * wanted) / zoom;
    zoom = wanted;
    for (const choice of zooms) choice.checked = Number(choice.value) === zoom;
    show();
  }

  function move(dx, dy) {
    x += dx;
    y += dy;
    show();
  }

  slider.addEventListener("input", show);
  viewer.addEventListener("change", (event) => {
    const { name, value } = event.target;
    if (name.startsWith("zoom")) zoomTo(Number(value));
    if (name.startsWith("left")) {
      viewer.dataset.left = value;
      tag.textContent = value === "telea" ? "Telea" : value;
    }
  });

  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step && zoom > 1) move(-0.1 * step[0], -0.1 * step[1]);
    else if (step && step[0]) divide(Number(slider.value) + 2 * step[0]);
    else if (event.key === "+" || event.key === "=") zoomTo(Math.min(4, 2 * zoom));
    else if (event.key === "-") zoomTo(Math.max(1, zoom / 2));
    else return;
    event.preventDefault();
  });

  let drag = null;
  stage.addEventListener("pointerdown", (event) => {
    if (drag || event.button !== 0) return;
    const box = stage.getBoundingClientRect();
    const at = box.left + (box.width * slider.value) / 100;
    drag = { pans: zoom > 1 && Math.abs(event.clientX - at) > GRIP, x: event.clientX, y: event.clientY, id: event.pointerId };
    stage.setPointerCapture(event.pointerId);
    stage.classList.add("moving");
    // A finger may be about to scroll the page.
    if (!drag.pans && event.pointerType !== "touch") divide((100 * (event.clientX - box.left)) / box.width);
  });
  stage.addEventListener("pointermove", (event) => {
    if (event.pointerId !== drag?.id) return;
    const box = stage.getBoundingClientRect();
    if (drag.pans) move((event.clientX - drag.x) / box.width, (event.clientY - drag.y) / box.height);
    else divide((100 * (event.clientX - box.left)) / box.width);
    drag.x = event.clientX;
    drag.y = event.clientY;
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, (event) => {
      if (event.pointerId !== drag?.id) return;
      drag = null;
      stage.classList.remove("moving");
    });
  }
  // A browser that comes back to the page restores the inputs, not what they did.
  viewer.querySelectorAll("input:checked").forEach((input) => input.dispatchEvent(new Event("change", { bubbles: true })));
  show();
}

async function copy(button) {
  const code = document.getElementById(button.dataset.copy);
  let said = "Copied";
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch { // not allowed, or no clipboard here: leave it selected
    getSelection().selectAllChildren(code);
    said = "Selected";
  }
  button.textContent = said;
  document.getElementById("said").textContent = said === "Copied" ? "Copied." : "Selected: copy it with Ctrl+C.";
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

document.querySelectorAll(".viewer").forEach(view);
document.querySelectorAll("[data-copy]").forEach((button) => button.addEventListener("click", () => copy(button)));
