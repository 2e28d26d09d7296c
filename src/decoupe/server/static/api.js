// Asking the server. Nothing else on the page talks to anything. Addresses are relative: a proxy may have it
// under any path that ends in /.

export class Refusal extends Error {
  constructor(status, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

const KEY = "decoupe-token";

export const remembers = () => Boolean(sessionStorage.getItem(KEY));
export const remember = (token) => sessionStorage.setItem(KEY, token);

const authorization = () => {
  const token = sessionStorage.getItem(KEY);
  // No token has other signs, and browsers send none of them: that error would come at every request.
  if (token && !/^[\x20-\x7e]+$/.test(token)) throw new Refusal(401, "the token is wrong");
  return token ? { Authorization: `Bearer ${token}` } : {};
};

export async function models() {
  const answer = await fetch("v1/models", { headers: authorization() });
  if (!answer.ok) throw new Refusal(answer.status, "the models cannot be listed");
  return answer.json();
}

// The cut-out of a file as a Blob. `told` gets the share of the file that has been sent, then null.
export function cut(file, options, { signal, told }) {
  const form = new FormData();
  form.append("image", file);
  for (const [name, value] of Object.entries(options)) form.append(name, value);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "v1/cut");
    request.responseType = "blob";
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => told(event.loaded / event.total);
    request.upload.onload = () => told(null);
    request.onload = async () => {
      if (request.status === 200) resolve(request.response);
      else reject(await refusal(request));
    };
    request.onerror = () => reject(new Refusal(0, "The server cannot be reached. Is it still running?"));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

async function refusal(request) {
  const seconds = Number(request.getResponseHeader("Retry-After"));
  try {
    const { detail } = JSON.parse(await request.response.text());
    return new Refusal(request.status, detail, seconds);
  } catch {
    return new Refusal(request.status, `The server answered ${request.status}.`, seconds);
  }
}
