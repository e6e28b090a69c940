/**
 * The client as one small ES module, for Roost's own pages: `roost/console/client.js`. It is in the repository, so that
 * they work where there is no Node. With `--check`, only sees whether it is what the sources give.
 */

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const target = fileURLToPath(new URL("../../../roost/console/client.js", import.meta.url));
const { outputFiles } = await build({
  entryPoints: [fileURLToPath(new URL("../src/index.ts", import.meta.url))],
  bundle: true,
  charset: "utf8",
  format: "esm",
  minify: true,
  target: "es2022",
  write: false,
  banner: { js: "// Built from clients/js by `npm run bundle`: not to be edited here." },
});
const [{ text }] = outputFiles;

if (!process.argv.includes("--check")) {
  writeFileSync(target, text);
  console.log(`${target}: ${text.length} bytes`);
} else if (readFileSync(target, "utf8") !== text) {
  console.error("roost/console/client.js is not what clients/js gives: run 'npm run bundle' there.");
  process.exit(1);
}
