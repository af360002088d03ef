// The browser's microphone as a WAV file. An AudioWorklet, not MediaRecorder: the same lossless format in every browser,
// and a level to look at meanwhile.

export const LONGEST = 120; // seconds

// Browsers give a microphone to https and to this machine alone.
export const available = () => isSecureContext && Boolean(navigator.mediaDevices?.getUserMedia) && "AudioWorkletNode" in window;

function wav(blocks, rate) {
  const length = blocks.reduce((sum, block) => sum + block.length, 0);
  const view = new DataView(new ArrayBuffer(44 + 2 * length));
  const text = (at, word) => [...word].forEach((sign, i) => view.setUint8(at + i, sign.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // mono
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * length, true);
  let at = 44;
  for (const block of blocks) {
    for (const sample of block) {
      view.setInt16(at, Math.round(32767 * Math.max(-1, Math.min(1, sample))), true);
      at += 2;
    }
  }
  return new Blob([view], { type: "audio/wav" });
}

// Begins to record; `level(peak, seconds)` ten times a second. Gives {stop(): WAV Blob, cancel()}. Throws DOMException.
export async function record(level, full) {
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true },
  });
  const context = new AudioContext();
  const blocks = [];
  let over = false;
  const end = () => {
    over = true;
    stream.getTracks().forEach((track) => track.stop());
    if (context.state !== "closed") context.close();
  };
  try {
    await context.audioWorklet.addModule(new URL("recorder-worklet.js", import.meta.url));
    const source = context.createMediaStreamSource(stream);
    const recorder = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
    recorder.port.onmessage = ({ data }) => {
      if (over) return;
      blocks.push(data);
      level(data.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0), blocks.length / 10);
      if (blocks.length >= 10 * LONGEST) full();
    };
    source.connect(recorder);
    await context.resume();
  } catch (error) {
    end();
    throw error;
  }
  return {
    stop() {
      end();
      return wav(blocks, context.sampleRate);
    },
    cancel: end,
  };
}
