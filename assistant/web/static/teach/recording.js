// A few seconds of the browser's own microphone, as a Blob. Needs a secure context: https, or this very machine.

export const possible = () => Boolean(window.isSecureContext && navigator.mediaDevices?.getUserMedia && window.MediaRecorder);

// Calls level(0 … 1) while it lasts; `began` once the microphone is open.
export async function record(seconds, { level, began }) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
  const context = new AudioContext();
  try {
    const analyser = context.createAnalyser();
    analyser.fftSize = 1024;
    context.createMediaStreamSource(stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    const timer = setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      const power = samples.reduce((sum, one) => sum + one * one, 0) / samples.length;
      level(Math.min(1, Math.max(0, 1 + (10 * Math.log10(power + 1e-9)) / 70)));
    }, 80);
    try {
      const recorder = new MediaRecorder(stream);
      const pieces = [];
      recorder.ondataavailable = ({ data }) => pieces.push(data);
      const over = new Promise((resolve, reject) => { recorder.onstop = resolve; recorder.onerror = ({ error }) => reject(error); });
      recorder.start();
      began();
      setTimeout(() => recorder.state !== "inactive" && recorder.stop(), 1000 * seconds);
      await over;
      return new Blob(pieces, { type: recorder.mimeType });
    } finally {
      clearInterval(timer);
    }
  } finally {
    for (const track of stream.getTracks()) track.stop();
    await context.close();
  }
}
