// Milliseconds from what was done last to every picture; the frame that has it was painted.
() => {
    window.pictures = [];
    for (const begins of ["pointerdown", "keydown"])
        addEventListener(begins, () => { window.began = performance.now(); }, true);
    const painted = () => window.pictures.push(performance.now() - window.began);
    document.addEventListener("load", ({target}) => {
        if (target.matches("img.fml-front"))
            requestAnimationFrame(() => setTimeout(painted));
    }, true);
}
