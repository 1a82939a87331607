// The names under which vLLM's clients list, load and unload adapters. Its errors have OpenAI's form.
import type { FastifyReply } from "fastify";
import { assertName } from "../names.ts";
import { answers, loadLoraSchema, modelSchema, modelsSchema, pathSchema, unloadLoraSchema } from "../schemas.ts";
import { ServeError } from "../serve-error.ts";
import { loadableStore, type RouteContext } from "./context.ts";

interface LoadBody {
  readonly lora_name: string;
  readonly lora_path?: string;
  readonly load_inplace?: boolean;
}

/** Routes whose errors have OpenAI's form. */
export const openAiPrefix = "/v1/";

/** `{ error: { message, type, param, code } }`, as OpenAI's clients read it. */
export function openAiError(status: number, message: string): object {
  const type =
    status === 404
      ? "NotFoundError"
      : status === 400
        ? "InvalidUserInput"
        : status < 500
          ? "InvalidRequest"
          : "InternalServerError";
  return { error: { message, type, param: null, code: status } };
}

export function openAiRoutes(context: RouteContext): void {
  const { app, service } = context;
  const tags = ["vLLM"];
  const created = Math.floor(Date.now() / 1000);
  const describe = (id: string): object => ({
    id,
    object: "model",
    created,
    owned_by: "lowrank",
    root: service.name,
    parent: id === service.name ? null : service.name,
  });
  app.get(
    "/v1/models",
    { schema: { tags, summary: "The base and the adapters", response: answers(modelsSchema, "The models.") } },
    async () => ({ object: "list", data: [service.name, ...(service.store?.names ?? [])].map(describe) }),
  );
  app.get<{ Params: { name: string } }>(
    "/v1/models/:name",
    {
      schema: { tags, summary: "One of them", params: pathSchema("name"), response: answers(modelSchema, "It.") },
    },
    async ({ params: { name } }) => {
      assertName(name, "model");
      service.versionsOf(name);
      return describe(name);
    },
  );
  app.post<{ Body: LoadBody }>(
    "/v1/load_lora_adapter",
    {
      schema: {
        tags,
        summary: "Load an adapter of the folder (needs --allow-loading)",
        body: loadLoraSchema,
        response: answers(null, "A sentence that says so.", "text/plain"),
      },
    },
    async ({ body }, reply) => {
      const store = loadableStore(context);
      const { lora_name: name, lora_path: path = name, load_inplace: isReload = false } = body;
      assertName(name, "lora_name");
      assertName(path, "lora_path");
      if (path !== name)
        throw new ServeError(
          400,
          "lora_path: expected the same as lora_name, which names a folder of the server's adapters",
        );
      if (name === service.name) throw new ServeError(400, `lora_name: ${JSON.stringify(name)} is the base`);
      if (!isReload && store.isLoaded(name)) {
        throw new ServeError(
          400,
          `The lora adapter '${name}' has already been loaded. If you want to load the adapter in place, set 'load_inplace' to True.`,
        );
      }
      await store.load(name);
      return said(reply, `Success: LoRA adapter '${name}' added successfully.`);
    },
  );
  app.post<{ Body: { lora_name: string } }>(
    "/v1/unload_lora_adapter",
    {
      schema: {
        tags,
        summary: "Unload an adapter (needs --allow-loading)",
        body: unloadLoraSchema,
        response: answers(null, "A sentence that says so.", "text/plain"),
      },
    },
    async ({ body: { lora_name: name } }, reply) => {
      const store = loadableStore(context);
      assertName(name, "lora_name");
      store.unload(name);
      return said(reply, `Success: LoRA adapter '${name}' removed successfully.`);
    },
  );
}

function said(reply: FastifyReply, text: string): FastifyReply {
  return reply.header("content-type", "text/plain; charset=utf-8").send(text);
}
