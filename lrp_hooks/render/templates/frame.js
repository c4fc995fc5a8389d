// In another page's frame: say how high this one is, so that the frame needs no scroll bar of its own.
new ResizeObserver(() => parent.postMessage({ height: Math.ceil(document.body.getBoundingClientRect().height) }, "*")).observe(document.body);
