import { describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { type FileAction, fileError } from "./file-error.ts";

function system(code: string): Error {
  return Object.assign(new Error(`${code}: something, open 'x'`), { code, errno: -1, syscall: "open" });
}

function text(action: FileAction, code: string): string {
  const error = fileError("out/a", action, system(code));
  expect(error).toBeInstanceOf(LowrankError);
  return (error as LowrankError).message;
}

describe("fileError", () => {
  it("explains what cannot be provoked in a test everywhere", () => {
    expect(text("write", "EROFS")).toBe("out/a: cannot write: the file system is read-only; choose another place");
    expect(text("write", "EDQUOT")).toBe(
      "out/a: cannot write: disk quota exceeded; free some space, or choose another place",
    );
    expect(text("write", "EACCES")).toBe(
      "out/a: cannot write: permission denied; check the permissions, or choose another place",
    );
    expect(text("write", "EISDIR")).toBe("out/a: cannot write: it is a folder; name a file");
    expect(text("remove", "EBUSY")).toBe(
      "out/a: cannot remove: it is in use; close the program that uses it, or choose another place",
    );
  });

  it("names a code that it has no words for", () => {
    expect(text("read", "ESTALE")).toBe("out/a: cannot read: ESTALE");
  });

  it("keeps the cause, and passes on what is no failed system call", () => {
    const cause = system("EIO");
    expect((fileError("a", "read", cause) as LowrankError).cause).toBe(cause);
    const own = new LowrankError("model", "bad");
    const bug = new TypeError("x is not a function");
    expect(fileError("a", "read", own)).toBe(own);
    expect(fileError("a", "read", bug)).toBe(bug);
    expect(fileError("a", "read", "text")).toBe("text");
  });
});
