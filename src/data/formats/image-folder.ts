// A folder with a subfolder of images for each class. Classes are the subfolders' names, sorted; images are decoded when a
// batch needs them (images.ts), in the size that the model has.
import { opendir, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { LowrankError, throwFaults } from "../../errors.ts";
import { systemFault } from "../files.ts";
import { memoryTable, type Table } from "../table.ts";

const imageName = /\.(png|jpe?g|webp|gif|tiff?|avif)$/i;

/** Two levels of folders are looked into. Hidden files and files of other kinds are passed over. */
export async function openImageFolder(path: string): Promise<Table> {
  const labels: string[] = [];
  const files: { readonly file: string; readonly label: number }[] = [];
  const faults: string[] = [];
  for (const name of await folders(path)) {
    const images = (await readdir(join(path, name))).filter((file) => imageName.test(file) && !file.startsWith("."));
    if (images.length === 0) faults.push(`${join(path, name)}: expected images of the class ${name}, got none`);
    for (const file of images.sort()) files.push({ file: join(path, name, file), label: labels.length });
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
