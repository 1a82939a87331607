// A place to drop files on, which is a file chooser too.
import { useSignal } from "@preact/signals";
import type { ComponentChildren, VNode } from "preact";
import type { Files } from "../protocol.ts";
import { report } from "../state/store.ts";

interface DropzoneProps {
  readonly label: string;
  readonly accept: string;
  readonly multiple?: boolean;
  readonly children: ComponentChildren;
  readonly onFiles: (files: readonly File[]) => void;
}

export function Dropzone({ label, accept, multiple = false, children, onFiles }: DropzoneProps): VNode {
  const isOver = useSignal(false);
  const give = (files: readonly File[]): void => {
    if (files.length > 0) onFiles(files);
  };
  return (
    <label
      class={`dropzone${isOver.value ? " over" : ""}`}
      onDragOver={(event) => {
        event.preventDefault();
        isOver.value = true;
      }}
      onDragLeave={() => {
        isOver.value = false;
      }}
      onDrop={(event) => {
        event.preventDefault();
        isOver.value = false;
        if (event.dataTransfer !== null) filesOf(event.dataTransfer).then(give, report);
      }}
    >
      <input
        type="file"
        class="visually-hidden"
        accept={accept}
        multiple={multiple}
        aria-label={label}
        onChange={(event) => {
          give([...(event.currentTarget.files ?? [])]);
          event.currentTarget.value = "";
        }}
      />
      {children}
    </label>
  );
}

/** What was dropped; of a folder, the files that lie in it, since an adapter is one. */
async function filesOf(dropped: DataTransfer): Promise<readonly File[]> {
  const plain = [...dropped.files];
  const entries = [...dropped.items].flatMap((item) => item.webkitGetAsEntry() ?? []);
  const folders = entries.filter((entry) => entry.isDirectory) as FileSystemDirectoryEntry[];
  if (folders.length === 0) return plain;
  const inside = await Promise.all(folders.map(filesIn));
  const own = entries.filter((entry) => entry.isFile) as FileSystemFileEntry[];
  const files = await Promise.all([...own, ...inside.flat()].map(fileOf));
  if (files.length === 0) throw new Error("There are no files in this folder: drop the one with the adapter's files.");
  return files;
}

/** The first hundred files of a folder, which is as many as a browser tells at once. */
function filesIn(folder: FileSystemDirectoryEntry): Promise<FileSystemFileEntry[]> {
  return new Promise((resolve, reject) => {
    folder
      .createReader()
      .readEntries((entries) => resolve(entries.filter((entry) => entry.isFile) as FileSystemFileEntry[]), reject);
  });
}

function fileOf(entry: FileSystemFileEntry): Promise<File> {
  return new Promise((resolve, reject) => entry.file(resolve, reject));
}

/** Files with their bytes. Throws Error that names one over `most` bytes, before any is read. */
export async function readFiles(files: readonly File[], most: number): Promise<Files> {
  const large = files.find((file) => file.size > most);
  if (large !== undefined) {
    throw new Error(`${large.name} has ${large.size} bytes; at most ${most} can be read here. Choose a smaller file.`);
  }
  return Object.fromEntries(await Promise.all(files.map(async (file) => [file.name, await bytesOf(file)] as const)));
}

async function bytesOf(file: File): Promise<Uint8Array> {
  try {
    return new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new Error(
      `${file.name} could not be read: it is too large for this browser's memory, or is no longer there. Choose it again, or use npx lowrank.`,
    );
  }
}
