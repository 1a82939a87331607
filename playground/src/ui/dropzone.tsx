// A place to drop files on, which is a file chooser too.
import { useSignal } from "@preact/signals";
import type { ComponentChildren, VNode } from "preact";
import type { Files } from "../protocol.ts";

interface DropzoneProps {
  readonly label: string;
  readonly accept: string;
  readonly multiple?: boolean;
  readonly children: ComponentChildren;
  readonly onFiles: (files: readonly File[]) => void;
}

export function Dropzone({ label, accept, multiple = false, children, onFiles }: DropzoneProps): VNode {
  const isOver = useSignal(false);
  const give = (list: FileList | null | undefined): void => {
    const files = [...(list ?? [])];
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
        give(event.dataTransfer?.files);
      }}
    >
      <input
        type="file"
        class="visually-hidden"
        accept={accept}
        multiple={multiple}
        aria-label={label}
        onChange={(event) => {
          give(event.currentTarget.files);
          event.currentTarget.value = "";
        }}
      />
      {children}
    </label>
  );
}

/** Files with their bytes. Throws Error that names one over `most` bytes, before any is read. */
export async function readFiles(files: readonly File[], most: number): Promise<Files> {
  const large = files.find((file) => file.size > most);
  if (large !== undefined) {
    throw new Error(`${large.name} has ${large.size} bytes; at most ${most} can be read here. Choose a smaller file.`);
  }
  const entries = files.map(async (file) => [file.name, new Uint8Array(await file.arrayBuffer())] as const);
  return Object.fromEntries(await Promise.all(entries));
}
