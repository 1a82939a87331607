// A contender in a process of its own, which answers JSON with JSON, one object a line, and is stopped (SIGSTOP) outside its own
// turns: whatever threads it has, none of them works or spins while somebody else is timed.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

/** Without signals that stop a process, no thread of it may spin on: a contender that cannot promise that should not run. */
export const CAN_STOP = process.platform !== "win32";

/** One process. It runs while it answers and is stopped the rest of the time. */
export class WorkerProcess {
  /**
   * @param {string} name for errors
   * @param {string} command
   * @param {readonly string[]} args
   * @param {Record<string, string>} [env] added to this process's own
   */
  constructor(name, command, args, env = {}) {
    this.name = name;
    this.child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ["pipe", "pipe", "pipe"] });
    this.lines = createInterface({ input: this.child.stdout })[Symbol.asyncIterator]();
    this.complaints = "";
    this.child.stderr.setEncoding("utf8").on("data", (text) => {
      this.complaints += text;
    });
    this.child.stdin.on("error", () => {}); // a process that has gone shows in the missing answer
    this.ended = new Promise((resolve) => this.child.once("close", resolve).once("error", resolve));
    this.kill = () => void this.child.kill("SIGKILL");
    process.once("exit", this.kill);
  }

  /** The next object that it prints; then stops it. */
  async receive() {
    const { value, done } = await this.lines.next();
    if (done) {
      await this.ended;
      throw new Error(`bench: expected an answer of ${this.name}, got its end\n${this.complaints}`);
    }
    if (CAN_STOP) this.child.kill("SIGSTOP");
    return JSON.parse(value);
  }

  /** @param {object} command */
  async ask(command) {
    if (CAN_STOP) this.child.kill("SIGCONT");
    this.child.stdin.write(`${JSON.stringify(command)}\n`);
    const answer = await this.receive();
    if (answer.error !== undefined) throw new Error(`bench: ${this.name}: ${answer.error}\n${this.complaints}`);
    return answer;
  }

  async close() {
    process.off("exit", this.kill);
    this.kill(); // works on a stopped process too, and there is nothing to save
    await this.ended;
  }
}
