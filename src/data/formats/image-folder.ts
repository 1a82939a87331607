// A folder with a subfolder of images for each class. Classes are the subfolders' names, sorted; images are decoded when a
// batch needs them (images.ts), in the size that the model has. Images that lie in the folder itself have no class.
import { opendir, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { LowrankError, throwFaults } from "../../errors.ts";
import { systemFault } from "../files.ts";
import { memoryTable, type Table } from "../table.ts";

export const imageName: RegExp = /\.(png|jpe?g|webp|gif|tiff?|avif)$/i;

/** One image file: a row without a class. */
export function openImage(path: string): Promise<Table> {
  return Promise.resolve(withoutClasses([path]));
}

/** Two levels of folders are looked into. Hidden files and files of other kinds are passed over. */
export async function openImageFolder(path: string): Promise<Table> {
  const classes = await folders(path);
  const own = classes.length === 0 ? await imagesIn(path) : [];
  return own.length > 0 ? withoutClasses(own) : withClasses(path, classes);
}

async function withClasses(path: string, classes: readonly string[]): Promise<Table> {
  const labels: string[] = [];
  const files: { readonly file: string; readonly label: number }[] = [];
  const faults: string[] = [];
  for (const name of classes) {
    const images = await imagesIn(join(path, name));
    if (images.length === 0) faults.push(`${join(path, name)}: expected images of the class ${name}, got none`);
    for (const file of images) files.push({ file, label: labels.length });
    labels.push(name);
  }
  if (labels.length === 0) faults.push("expected a subfolder of images for each class, got none");
  throwFaults("data", path, faults);
  return memoryTable({
    format: "images",
    columns: [{ name: "image", image: true }, { name: "label" }],
    length: files.length,
    labels,
    at: (row) => [files[row]!.file, files[row]!.label],
    where: (row) => files[row]!.file,
  });
}

function withoutClasses(files: readonly string[]): Table {
  return memoryTable({
    format: "images",
    columns: [{ name: "image", image: true }],
    length: files.length,
    at: (row) => [files[row]!],
    where: (row) => files[row]!,
  });
}

async function imagesIn(path: string): Promise<string[]> {
  const names = (await readdir(path)).filter((file) => imageName.test(file) && !file.startsWith("."));
  return names.sort().map((name) => join(path, name));
}

async function folders(path: string): Promise<string[]> {
  const names: string[] = [];
  try {
    for await (const entry of await opendir(path)) {
      const isFolder =
        entry.isDirectory() || (entry.isSymbolicLink() && (await stat(join(path, entry.name))).isDirectory());
      if (isFolder && !entry.name.startsWith(".")) names.push(entry.name);
    }
  } catch (error) {
    throw new LowrankError("file", `${path}: ${systemFault(error)}`, { cause: error });
  }
  return names.sort();
}
