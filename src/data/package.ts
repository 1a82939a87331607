// Packages that only some formats need: loaded when they are used, and named when they are missing.
import { LowrankError } from "../errors.ts";

/**
 * The result of importing a package.
 *
 * @throws LowrankError "config" that says how to install it when it is not there.
 */
export async function loadPackage<T>(name: string, use: string, load: () => Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const fault = code === "ERR_MODULE_NOT_FOUND" ? "it is not installed" : `it cannot be loaded (${message})`;
    throw new LowrankError("config", `${name}: needed for ${use}, but ${fault}; run npm install ${name}`, {
      cause: error,
    });
  }
}
