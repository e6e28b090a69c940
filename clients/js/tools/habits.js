/** The habits of the house that tsc and prettier do not know: files and functions stay short, and files say why. */

import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const FILE_LINES_MAX = 500;
const FUNCTION_LINES_MAX = 70;
const LINE_CHARS_MAX = 120;
const root = fileURLToPath(new URL("..", import.meta.url));
const found = [];

for (const folder of ["src", "src/store", "tests", "tools"]) {
  for (const entry of readdirSync(root + folder)) {
    if (/\.(ts|tsx|js)$/.test(entry)) look(`${folder}/${entry}`);
  }
}
for (const line of found) console.error(line);
process.exit(found.length === 0 ? 0 : 1);

function look(name) {
  const lines = readFileSync(root + name, "utf8").split("\n");
  if (lines.length > FILE_LINES_MAX) found.push(`${name}: ${lines.length} lines`);
  if (!lines[0].startsWith("/**")) found.push(`${name}: does not say why it exists`);
  lines.forEach((line, index) => {
    if (line.length > LINE_CHARS_MAX) found.push(`${name}:${index + 1}: ${line.length} characters`);
    const indent = /^( *)[^ ].*(\{|=> \()$/.exec(line)?.[1];
    if (indent === undefined || /^ *(export )?(abstract )?(class|interface)\b/.test(line)) return;
    const length = lines.slice(index + 1).findIndex((later) => later.startsWith(`${indent}}`));
    if (length > FUNCTION_LINES_MAX) found.push(`${name}:${index + 1}: ${length} lines in one function`);
  });
}
