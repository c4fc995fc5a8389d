// In a report's frame: say how high the page is, so that the frame needs no scroll bar of its own.
new ResizeObserver(() => parent.postMessage({ height: Math.ceil(document.body.getBoundingClientRect().height) }, "*")).observe(document.body);
