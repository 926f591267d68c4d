// Builds charts.min.js and LICENSES.txt from the versions in package-lock.json, byte for byte the same each time:
//
//     cd loader/page/vendor && npm ci && npm run build && rm -r node_modules
//
// Nothing of this runs when the loader is installed or used; both files are in the repository.
import { build } from "esbuild";
import { readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const PACKAGES = ["echarts", "zrender", "tslib"];
const home = (name) => join("node_modules", name);
const about = (name) => JSON.parse(readFileSync(join(home(name), "package.json"), "utf8"));
const named = PACKAGES.map((name) => `${name} ${about(name).version} (${about(name).license})`).join(", ");

await build({
  entryPoints: ["charts.js"],
  outfile: "charts.min.js",
  bundle: true,
  minify: true,
  format: "iife",
  globalName: "charts",
  target: "es2020",
  charset: "ascii", // the page is valid whatever encoding a server declares
  legalComments: "none", // all of them are in LICENSES.txt
  define: { "process.env.NODE_ENV": '"production"' },
  banner: { js: `/*! ${named}: see loader/page/vendor/LICENSES.txt */` },
});

const texts = (folder) =>
  readdirSync(folder)
    .filter((name) => /^(LICEN[CS]E|NOTICE)/i.test(name))
    .map((name) => join(folder, name))
    .filter((path) => statSync(path).isFile());
const parts = PACKAGES.flatMap((name) => {
  const paths = [...texts(home(name)), ...(name === "echarts" ? texts(join(home(name), "licenses")) : [])];
  return paths.map((path) => {
    const title = `${name} ${about(name).version}, ${path.slice(home(name).length + 1)}`;
    return `${title}\n${"=".repeat(title.length)}\n\n${readFileSync(path, "utf8").replaceAll("\r\n", "\n").trim()}\n`;
  });
});
writeFileSync("LICENSES.txt", `charts.min.js contains ${named}.\n\n\n${parts.join("\n\n")}`);
