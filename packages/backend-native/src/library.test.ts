import { execFileSync } from 'node:child_process';
import { expect, it } from 'vitest';

it('a missing library gives an error that says where it was looked for and how to bring it', () => {
  const script = `
    import { registerNativeBackend } from '@flamingo-ts/backend-native';
    try { registerNativeBackend(); } catch (error) { console.log(error.message); }`;
  const args = ['--conditions=@flamingo-ts/source', '--import', 'tsx', '--input-type=module', '-e', script];
  const env = { ...process.env, FLAMINGO_ONEDNN: '/nowhere/libdnnl.so.9' };
  const message = execFileSync(process.execPath, args, { env, encoding: 'utf8', cwd: import.meta.dirname });
  expect(message).toMatch(/oneDNN was not found\. Looked at: \/nowhere\/libdnnl\.so\.9 \(not there\)/);
  expect(message).toContain('npm run setup:onednn');
});
