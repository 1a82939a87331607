// The operating system's error codes in words: what was tried, what went wrong, what to do about it, in one line.
import { LowrankError } from "../errors.ts";

export type FileAction = "read" | "write" | "remove" | "open";

/** What an error code means, and what to do; where the two actions differ, each has its own entry. */
const explanations: Readonly<Record<string, readonly [fault: string, advice: string]>> = {
  EACCES: ["permission denied", "check the permissions, or choose another place"],
  EPERM: ["operation not permitted", "check the permissions, or choose another place"],
  ENOSPC: ["no space left on device", "free some space, or choose another place"],
  EDQUOT: ["disk quota exceeded", "free some space, or choose another place"],
  EROFS: ["the file system is read-only", "choose another place"],
  ENOTDIR: ["a part of the path is a file, not a folder", "check the path"],
  EISDIR: ["it is a folder", "name a file"],
  ENOENT: ["no such file", "check the path"],
  EEXIST: ["a file with this name is in the way", "remove it, or choose another name"],
  ENAMETOOLONG: ["the name is too long", "choose a shorter one"],
  ELOOP: ["too many symbolic links", "check the links in the path"],
  EMFILE: ["too many open files", "close some, or raise the limit (ulimit -n)"],
  ENFILE: ["too many open files on this machine", "close some programs"],
  EFBIG: ["the file is larger than is allowed here", "choose another place"],
  ERR_FS_FILE_TOO_LARGE: ["it is larger than 2 GiB", "keep large weights as external data"],
  EIO: ["input/output error", "check the disk"],
  EBUSY: ["it is in use", "close the program that uses it, or choose another place"],
  EXDEV: ["it lies on another file system", "choose another place"],
  ERR_INVALID_ARG_VALUE: ["it is no valid path", "check the path"],
};

const writing: typeof explanations = {
  ENOENT: ["the folder does not exist", "create it first, or choose another place"],
};

/**
 * A LowrankError ("file") that says `path: cannot write: no space left on device; free some space, …`.
 * `cause` is what Node threw; an error that is no failed system call is returned as it is.
 */
export function fileError(path: string, action: FileAction, cause: unknown): unknown {
  const code = errorCode(cause);
  if (code === undefined) return cause;
  const known = (action === "write" ? writing[code] : undefined) ?? explanations[code];
  if (known !== undefined) return new LowrankError("file", `${path}: cannot ${action}: ${known.join("; ")}`, { cause });
  return isSystemError(cause) ? new LowrankError("file", `${path}: cannot ${action}: ${code}`, { cause }) : cause;
}

/** The `code` of an error that Node threw ("ENOENT"), or undefined. */
export function errorCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || error instanceof LowrankError || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

function isSystemError(error: unknown): boolean {
  return error instanceof Error && "syscall" in error;
}
