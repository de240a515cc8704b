// A picture of two SVGs over each other, and what only the page knows: see picture.py.

const LOWEST = 0.47, HIGHEST = 0.9; // height by width, between which a picture follows the window
const BELOW = 12; // pixels left free beneath it
const LEAST_WORDS = 300; // pixels of height that the words beside it have at least
const PATIENCE = 3000; // milliseconds after which the kernel is asked for a picture again
const NEAR = 0.03; // share of the width within which a spot is meant
const DEEDS = { play: "play", pause: "pause", stop: "stop", repeat: "repeat" };

function load(img, svg) {
    const before = img.src;
    img.src = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
    URL.revokeObjectURL(before);
}

function make(kind, tag, parent) {
    const made = document.createElement(tag);
    made.className = kind;
    if (tag === "img") made.alt = "";
    parent.append(made);
    return made;
}

// What scrolls the explorer: a panel of JupyterLab, or the page.
function scroller(node) {
    for (let at = node.parentElement; at && at !== document.body; at = at.parentElement)
        if (["auto", "scroll"].includes(getComputedStyle(at).overflowY)) return at;
    return document.scrollingElement;
}

// Jupyter's controls leave it to labels beside them to say what they are.
function nameControls(explorer) {
    const label = (box) => box.querySelector(".widget-label")?.textContent.trim() ?? "";
    for (const box of explorer.querySelectorAll(".widget-slider, .widget-dropdown")) {
        for (const part of box.querySelectorAll(".noUi-handle, select"))
            part.setAttribute("aria-label", label(box));
        for (const number of box.querySelectorAll(".widget-readout")) {
            number.setAttribute("role", "textbox");
            number.setAttribute("aria-label", `${label(box)}, as a number`);
        }
    }
    for (const box of explorer.querySelectorAll(".widget-toggle-buttons")) {
        box.setAttribute("role", "group");
        box.setAttribute("aria-label", label(box));
    }
    for (const button of explorer.querySelectorAll("button.widget-toggle-button"))
        button.setAttribute("aria-pressed", button.classList.contains("mod-active"));
    for (const icon of explorer.querySelectorAll(".widget-play button i")) {
        const deed = Object.keys(DEEDS).find((name) => icon.className.includes(name));
        icon.parentElement.setAttribute("aria-label", `${DEEDS[deed]} through the tasks`);
    }
    const words = explorer.querySelector(".fml-words");
    words.tabIndex = 0;
    words.setAttribute("role", "region");
    words.setAttribute("aria-label", "the picture in numbers");
    explorer.setAttribute("role", "region");
    explorer.setAttribute("aria-label", "explorer");
}

function render({ model, el }) {
    el.classList.add("fml-stage", "fml-waits");
    el.classList.toggle("fml-pressable", model.get("pressable"));
    const back = make("fml-back", "img", el), front = make("fml-front", "img", el);
    const tip = make("fml-tip", "div", el);
    let shown = "", asked = null, again = null, explorer = null;

    const draw = () => {
        clearTimeout(again);
        el.classList.remove("fml-waits");
        if (shown !== model.get("back")) load(back, (shown = model.get("back")));
        load(front, model.get("front"));
        front.alt = model.get("alt");
    };

    // The kernel answers with a picture that fits; one that is still busy is asked again.
    const ask = (ratio) => {
        model.set("room", [(asked = ratio), (model.get("room")[1] ?? 0) + 1]);
        model.save_changes();
        clearTimeout(again);
        again = setTimeout(ask, PATIENCE, ratio);
    };

    const measure = () => {
        if (!explorer || !el.clientWidth) return;
        const view = scroller(explorer), page = view === document.scrollingElement;
        const from = page ? 0 : view.getBoundingClientRect().top;
        const alone = document.querySelector("details.fml-about"); // it is all of the page
        const above = alone ? explorer.getBoundingClientRect().top - from + view.scrollTop : 0;
        const bar = explorer.querySelector(".fml-bar").offsetHeight;
        const room = (page ? window.innerHeight : view.clientHeight) - above - bar - BELOW;
        explorer.style.setProperty("--fml-room", `${Math.max(room, LEAST_WORDS)}px`);
        const ratio = Math.min(Math.max(room / el.clientWidth, LOWEST), HIGHEST);
        const drawn = asked ?? model.get("room")[0] ?? 0;
        if (Math.abs(ratio - drawn) > 0.005) ask(ratio);
        else if (asked === null) (asked = ratio), draw(); // another view has asked already
    };

    const keep = () => {
        if (!Object.keys(model.get("address")).length) return; // the page is not ours
        const url = new URL(window.location.href);
        for (const [name, value] of Object.entries(model.get("address")))
            url.searchParams.set(name, value);
        window.history.replaceState(window.history.state, "", url);
    };

    const press = (event) => {
        if (!model.get("pressable")) return;
        const box = el.getBoundingClientRect(), [, , count = 0] = model.get("pressed");
        const x = (event.clientX - box.left) / box.width;
        const y = (event.clientY - box.top) / box.height;
        model.set("pressed", [x, y, count + 1]);
        model.save_changes();
    };

    const point = (event) => {
        const box = el.getBoundingClientRect();
        const x = event.clientX - box.left, y = event.clientY - box.top;
        const away = (spot) => Math.hypot(spot.x * box.width - x, spot.y * box.height - y);
        const near = model.get("spots").filter((spot) => away(spot) < NEAR * box.width);
        near.sort((one, other) => away(one) - away(other));
        tip.style.display = near.length ? "block" : "none";
        if (!near.length) return;
        tip.replaceChildren();
        const image = model.get("images")[near[0].image];
        if (image) make("", "img", tip).src = image;
        make("", "div", tip).textContent = near[0].text;
        tip.style.left = `${Math.min(x + 12, box.width - tip.offsetWidth)}px`;
        tip.style.top = `${Math.min(y + 12, box.height - tip.offsetHeight)}px`;
    };

    model.on("change:front", () => asked !== null && draw());
    model.on("change:address", keep);
    model.on("change:helped", () => {
        for (const about of document.querySelectorAll("details.fml-about"))
            about.open = model.get("helped");
    });
    el.addEventListener("click", press);
    el.addEventListener("mousemove", point);
    el.addEventListener("mouseleave", () => (tip.style.display = "none"));
    window.addEventListener("resize", measure);
    keep();

    const sizes = new ResizeObserver(() => requestAnimationFrame(measure));
    const names = new MutationObserver(() => nameControls(explorer));
    const begin = () => {
        explorer = el.closest(".fml-explorer");
        if (!explorer) return requestAnimationFrame(begin); // not in the page yet
        nameControls(explorer);
        names.observe(explorer, { childList: true, subtree: true, attributeFilter: ["class"] });
        sizes.observe(el);
        sizes.observe(explorer.querySelector(".fml-bar"));
    };
    begin();
    return () => {
        clearTimeout(again);
        sizes.disconnect();
        names.disconnect();
        window.removeEventListener("resize", measure);
    };
}

export default { render };
