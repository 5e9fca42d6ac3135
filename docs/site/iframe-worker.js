/* The search of the site runs in a worker, and a browser starts no worker from a file. For pages that are
   opened from a folder, a hidden frame runs the worker's script instead; on a server nothing is changed. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.appendChild(frame)
      const inside = frame.contentWindow
      const waiting = []
      this.deliver = data => waiting.push(data)
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      inside.importScripts = () => undefined
      const script = inside.document.createElement("script")
      script.src = url
      script.onload = () => {
        this.deliver = data => inside.dispatchEvent(new inside.MessageEvent("message", { data }))
        waiting.forEach(this.deliver)
      }
      inside.document.head.appendChild(script)
      this.frame = frame
    }
    postMessage(data) { this.deliver(data) }
    terminate() { this.frame.remove() }
    set onmessage(handler) { this.addEventListener("message", handler) }
  }
}
