// A page that is opened as a file may not start a Worker, and the theme fetches a replacement from a server.
// This one runs the worker's script in a hidden frame: search works without a network.
window.Worker = class extends EventTarget {
  constructor(url) {
    super()
    const frame = document.createElement("iframe")
    frame.hidden = true
    document.body.append(frame)
    const scope = frame.contentWindow
    scope.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
    this.loaded = new Promise(resolve => {
      const script = frame.contentDocument.createElement("script")
      script.onload = resolve
      script.src = url
      frame.contentDocument.body.append(script)
    })
    this.postMessage = data =>
      this.loaded.then(() => scope.dispatchEvent(new scope.MessageEvent("message", { data })))
    this.addEventListener("message", event => this.onmessage?.(event))
  }
}
